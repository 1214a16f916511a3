"""Samples through a model, and how many answers it gets right.

Greedy decoding writes an answer exactly if each of its tokens is the likeliest one after the prompt and the answer's
tokens before it: had one of them not been, decoding would have gone another way there, and until then it has written
the same. So one pass over prompt and answer together tells what generation would, with no cache and no loop. With
several answers ("a, b, and c") that holds for the first; each later one is then scored with the ones before it given
(`teacher`), or the list is decoded and searched for each answer, in any order, as RULER does (`greedy`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, groupby

import numpy as np

from ringattn.data.sequence import Sequence as TokenSequence
from ringattn.evaluation.greedy import decode
from ringattn.evaluation.parts import Reader
from ringattn.evaluation.result import Score
from ringattn.evaluation.samples import Case, Sample
from ringattn.runtime.rows import Rows
from ringattn.training.loss import IGNORE


@dataclass(frozen=True)
class _Outcome:
    """score: the fraction of answers that are right. loss: mean of the answers' tokens, in nats. written: the tokens
    that the model puts in the place of each answer (of all of them, when decoded)."""

    score: float
    loss: float
    written: tuple[np.ndarray, ...]


def score_cases(
    reader: Reader,
    cases: Sequence[Case],
    *,
    samples: int,
    batch_tokens: int,
    greedy: bool,
    text: Callable[[np.ndarray], str],
    rows: Rows | None = None,
    say: Callable[[str], None],
) -> list[Score]:
    """A score for each case, from `samples` samples. Collective; the same on each rank. text: tokens as text. rows: of
    ranks, which read different samples (all the same, unless given)."""
    rows = rows or Rows()
    found: dict[int, list[_Outcome]] = {}
    numbers = sorted(range(len(cases)), key=lambda number: _alike(cases[number]))
    for (task, length, in_text), alike in groupby(numbers, key=lambda number: _alike(cases[number])):
        asked = [(number, sample) for number in alike for sample in range(samples)]
        most = min(max(1, batch_tokens // length), -(-len(asked) // rows.number))
        outcomes = []
        for batch in rows.mine([asked[first : first + most] for first in range(0, len(asked), most)]):
            read = [cases[number].make(sample) for number, sample in batch]
            outcomes.append(_decoded(reader, read, text) if greedy and in_text else _taught(reader, read))
        every = list(chain.from_iterable(rows.gather(outcomes)))
        for (number, _), outcome in zip(asked, every):
            found.setdefault(number, []).append(outcome)
        say(f"{task} at {length:,} tokens: {100 * float(np.mean([one.score for one in every])):.1f} %")
    return [_score(case, found[number], text) for number, case in enumerate(cases)]


def _alike(case: Case) -> tuple[str, int, bool]:
    """Cases that are read together, and reported in one line."""
    return case.task, case.length, case.text


def _taught(reader: Reader, rows: Sequence[Sample]) -> list[_Outcome]:
    """One pass with all answers given."""
    tokens = np.stack([row.tokens for row in rows])
    targets = np.full_like(tokens, IGNORE)
    for number, row in enumerate(rows):
        for start, stop in row.answers:
            targets[number, start - 1 : stop - 1] = row.tokens[start:stop]
    predicted, losses = (
        found.cpu().numpy() for found in reader.predictions(TokenSequence(inputs=tokens, targets=targets))
    )
    outcomes = []
    for number, row in enumerate(rows):
        written = tuple(predicted[number, start - 1 : stop - 1] for start, stop in row.answers)
        right = [np.array_equal(w, row.tokens[start:stop]) for w, (start, stop) in zip(written, row.answers)]
        lost = np.concatenate([losses[number, start - 1 : stop - 1] for start, stop in row.answers])
        outcomes.append(_Outcome(float(np.mean(right)), float(lost.mean()), written))
    return outcomes


def _decoded(reader: Reader, rows: Sequence[Sample], text: Callable[[np.ndarray], str]) -> list[_Outcome]:
    """Decoded from the prompt on, as many tokens as the sample has behind it."""
    taught = _taught(reader, rows)
    tokens = np.stack([row.tokens for row in rows])
    after = decode(reader, tokens, [(row.prompt, tokens.shape[1]) for row in rows])
    outcomes = []
    for number, row in enumerate(rows):
        written = after[number, row.prompt :]
        shown = text(written)
        right = [text(row.tokens[start:stop]).strip() in shown for start, stop in row.answers]
        outcomes.append(_Outcome(float(np.mean(right)), taught[number].loss, (written,)))
    return outcomes


def _score(case: Case, found: Sequence[_Outcome], text: Callable[[np.ndarray], str]) -> Score:
    scores = np.array([outcome.score for outcome in found])
    error = float(scores.std(ddof=1)) / math.sqrt(len(scores)) if len(scores) > 1 else None
    sample, outcome = case.make(0), found[0]
    return Score(
        task=case.task,
        name=case.name,
        place=case.place,
        length=case.length,
        samples=len(scores),
        score=float(scores.mean()),
        standard_error=error,
        loss=float(np.mean([one.loss for one in found])),
        expected=" | ".join(text(sample.tokens[start:stop]).strip() for start, stop in sample.answers[:12]),
        written=" | ".join(text(tokens).strip() for tokens in outcome.written[:12]),
    )
