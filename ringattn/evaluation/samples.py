"""One question to a model, as tokens, and how it is put together to an exact number of them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ringattn.evaluation.text import Pieces

# J. Mohtashami and M. Jaggi, "Landmark Attention" (2023), section 4.2: the text around the pass key.
NOISE = (
    " The grass is green.",
    " The sky is blue.",
    " The sun is yellow.",
    " Here we go.",
    " There and back again.",
)


@dataclass(frozen=True)
class Sample:
    """tokens: int64 [length], the prompt, what the model should write, and a remainder that is not looked at.
    answers: where each answer stands in it, (start, stop). prompt: how many tokens the model is given."""

    tokens: np.ndarray
    answers: tuple[tuple[int, int], ...]
    prompt: int


@dataclass(frozen=True, kw_only=True)
class Case:
    """Samples of a kind: one figure of the result.

    task, name: `passkey` and `30 %`, say. place: the case's number in its task, for axes. make: of a sample's number.
    text: whether answers are words, which greedy decoding may write in another order.
    """

    task: str
    name: str
    length: int
    make: Callable[[int], Sample]
    place: float = 0.0
    text: bool = True


def generator(*seeds: int | str) -> np.random.Generator:
    """Random numbers of a seed, a task, a case and a sample: the same on every rank, others for each."""
    return np.random.default_rng([s if isinstance(s, int) else zlib.crc32(s.encode()) for s in seeds])


@dataclass(frozen=True)
class Haystack:
    """Tokens to hide something in, int64 [n], and where sentences end, ascending, from 0 on."""

    tokens: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, sentences: Sequence[np.ndarray]) -> Haystack:
        """Of sentences as tokens."""
        return cls(np.concatenate(sentences), np.cumsum([0, *map(len, sentences)]))

    def cut(self, size: int) -> Haystack:
        """Repeated or cut to `size` tokens; its end counts as that of a sentence."""
        turns = -(-size // len(self.tokens))
        ends = (self.ends[None, :-1] + np.arange(turns)[:, None] * len(self.tokens)).ravel()
        return Haystack(np.resize(self.tokens, size), np.append(ends[ends < size], size))


def hide(
    pieces: Pieces,
    haystack: Haystack,
    needles: Sequence[tuple[float, str]],
    *,
    head: str,
    question: str,
    answers: Sequence[str],
    length: int,
    spare: int,
) -> Sample:
    """The haystack with needles in it, between a head and a question, and then the answers.

    needles: (depth, text), depth from 0, the start of the haystack, to 1, its end; at the nearest end of a sentence,
    in this order where that is the same. length: of the whole, to the token. spare: tokens left behind the answers.

    Raises:
        ValueError: the length does not hold even what is not hay.
    """
    start, end, texts = pieces.first(head), pieces(question), pieces.many([text for _, text in needles])
    tail, spans = listed(pieces, answers)
    fixed = len(start) + sum(map(len, texts)) + len(end) + len(tail) + spare
    size = length - fixed
    if size < 0:
        raise ValueError(
            f"a sequence must hold the task's own words, which take {fixed} tokens of this model, but has {length}: "
            f"raise lengths to {fixed} or more, or choose other tasks."
        )
    hay = haystack.cut(size)
    parts, done = [start], 0
    for (depth, _), text in sorted(zip(needles, texts), key=lambda both: both[0][0]):
        place = int(hay.ends[np.abs(hay.ends - depth * size).argmin()])
        parts += [hay.tokens[done:place], text]
        done = place
    prompt = np.concatenate([*parts, hay.tokens[done:], end])
    return finish(prompt, tail, spans, spare=spare)


def listed(pieces: Pieces, answers: Sequence[str]) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """`a, b, and c` as tokens, int64 [n], and where each of them stands there."""
    tokens: list[np.ndarray] = []
    spans, size = [], 0
    for number, answer in enumerate(answers):
        ids = pieces.answer(f" {answer}")
        if number:
            between = pieces("," if number < len(answers) - 1 or len(answers) == 2 else ", and")
            tokens.append(between)
            size += len(between)
        tokens.append(ids)
        spans.append((size, size + len(ids)))
        size += len(ids)
    return np.concatenate(tokens), spans


def finish(prompt: np.ndarray, tail: np.ndarray, spans: Sequence[tuple[int, int]], *, spare: int) -> Sample:
    """A prompt and its answers as one sample."""
    behind = np.full(spare, tail[-1])
    places = tuple((len(prompt) + start, len(prompt) + stop) for start, stop in spans)
    return Sample(np.concatenate([prompt, tail, behind]), places, len(prompt))
