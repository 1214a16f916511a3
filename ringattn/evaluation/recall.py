"""Multi-query associative recall on tokens: pairs of a key and its value first, then the keys again among other tokens.

S. Arora et al., "Zoology: Measuring and Improving Recall in Efficient Language Models" (2023), section 3.1 and appendix
A. Each key comes back once, its value is to be predicted, and stands behind it. Keys are of the first half of the
vocabulary and values of the second, as there; what lies between is drawn from both, but is none of the keys. No
tokenizer is needed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

import numpy as np

from ringattn.evaluation.samples import Case, Sample, generator


def recall_cases(
    lengths: Sequence[int],
    pairs: Sequence[int],
    *,
    vocabulary: int,
    special: Collection[int],
    power: float,
    seed: int,
    start: np.ndarray,
) -> list[Case]:
    """A case for each length and number of pairs that fit.

    special: token ids not to use. power: a query stands `gap` places behind the pairs, drawn with a probability in
    proportion to gap ** (power - 1): 1 is uniform, the paper trains with 0.01. start: tokens before all others.

    Raises:
        ValueError: a length too short for the fewest pairs, or more pairs than the vocabulary has keys.
    """
    allowed = np.array([token for token in range(vocabulary) if token not in special], dtype=np.int64)
    half = len(allowed) // 2
    if max(pairs) > half - 1:
        raise ValueError(
            f"keys and values are different tokens, so recall.pairs may be {half - 1} at most for a vocabulary of "
            f"{len(allowed)}, got {max(pairs)}: lower recall.pairs."
        )
    shortest = 4 * min(pairs) + len(start)
    if min(lengths) < shortest:
        raise ValueError(
            f"recall of {min(pairs)} pairs takes {shortest} tokens, four a pair, but a sequence has {min(lengths)}: "
            "raise lengths or lower recall.pairs."
        )
    return [
        Case(
            task="recall",
            name=f"{number} pairs",
            place=number,
            length=length,
            make=partial(_sample, allowed, length, number, power, seed, start),
            text=False,
        )
        for length in lengths
        for number in pairs
        if 4 * number + len(start) <= length
    ]


def _sample(
    allowed: np.ndarray, length: int, pairs: int, power: float, seed: int, start: np.ndarray, number: int
) -> Sample:
    random = generator(seed, "recall", length, pairs, number)
    half = len(allowed) // 2
    keys = random.choice(allowed[:half], pairs, replace=False)
    values = random.choice(allowed[half:], pairs, replace=False)
    fill = length - len(start) - 4 * pairs
    others = random.choice(np.setdiff1d(allowed, keys), fill)
    # Queries take two places each: drawn among places of one, then spread.
    gaps = np.arange(1, fill + pairs + 1, dtype=np.float64) ** (power - 1)
    places = np.sort(random.choice(fill + pairs, pairs, replace=False, p=gaps / gaps.sum())) + np.arange(pairs)
    order = random.permutation(pairs)
    body = np.empty(fill + 2 * pairs, dtype=np.int64)
    free = np.ones(len(body), dtype=bool)
    free[places] = free[places + 1] = False
    body[places], body[places + 1], body[free] = keys[order], values[order], others
    head = np.concatenate([start, np.stack([keys, values], axis=1).ravel()])
    asked = places + len(head) + 1
    return Sample(np.concatenate([head, body]), tuple((int(p), int(p) + 1) for p in asked), int(asked[0]))
