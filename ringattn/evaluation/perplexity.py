"""Perplexity by position: does a model use what lies far back?

The loss of every position of held-out sequences, averaged in position ranges that double. A model that uses
its whole context keeps getting better to the right; one that does not goes flat, and one beyond its positions
goes up.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

FIRST_RANGE = 256


@dataclass(frozen=True, kw_only=True)
class Span:
    """Mean loss in nats over positions `start` to `stop` (excluded) of all sequences.

    standard_error: of the mean, from how the sequences' own means differ; None where there is one sequence.
    """

    start: int
    stop: int
    tokens: int
    loss: float
    standard_error: float | None = None

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss)


@dataclass(frozen=True, kw_only=True)
class PositionRange(Span):
    """The same of a model and of the bigram model on the very same tokens."""

    bigram_loss: float

    @property
    def bigram_perplexity(self) -> float:
        return math.exp(self.bigram_loss)


@dataclass(frozen=True, kw_only=True)
class LengthReport:
    """A model's figures on `sequences` sequences of `length` tokens: in all, by doubling ranges, by quarters."""

    length: int
    sequences: int
    whole: Span
    ranges: tuple[Span, ...]
    quarters: tuple[Span, ...]


@dataclass(frozen=True, kw_only=True)
class PositionReport:
    """Held-out figures of a model and of the bigram model on the very same tokens."""

    sequences: int
    length: int
    loss: float
    bigram_loss: float
    ranges: tuple[PositionRange, ...]

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss)

    @property
    def bigram_perplexity(self) -> float:
        return math.exp(self.bigram_loss)

    def to_json(self) -> dict[str, Any]:
        """Plain values with the perplexities written out."""
        values = asdict(self) | {"perplexity": self.perplexity, "bigram_perplexity": self.bigram_perplexity}
        values["ranges"] = [
            asdict(r) | {"perplexity": r.perplexity, "bigram_perplexity": r.bigram_perplexity} for r in self.ranges
        ]
        return values


def position_ranges(length: int, first: int = FIRST_RANGE) -> list[tuple[int, int]]:
    """(start, stop) ranges that cover `length` positions, each as long as all before it.

    >>> position_ranges(2048)
    [(0, 256), (256, 512), (512, 1024), (1024, 2048)]
    """
    ranges, start, stop = [], 0, first
    while start < length:
        ranges.append((start, min(stop, length)))
        start, stop = stop, 2 * stop
    return ranges


def report(
    losses: np.ndarray, bigram_losses: np.ndarray, positions: np.ndarray, *, sequences: int, length: int
) -> PositionReport:
    """Summarize token losses [n], the model's and the bigram's on the same tokens, by their positions.

    Args:
        positions: int [n], each token's place in its document, below `length`.
        sequences, length: how many sequences the tokens are of, and the longest of them.
    """
    if not losses.shape == bigram_losses.shape == positions.shape or losses.ndim != 1 or not losses.size:
        raise ValueError(
            "losses, bigram losses and positions must be [n] of the same tokens, at least one, got "
            f"{list(losses.shape)}, {list(bigram_losses.shape)} and {list(positions.shape)}: evaluate all on the same "
            "sequences."
        )
    ranges = []
    for start, stop in position_ranges(int(positions.max()) + 1):
        inside = (start <= positions) & (positions < stop)
        if inside.any():
            ranges.append(
                PositionRange(
                    start=start,
                    stop=stop,
                    tokens=int(inside.sum()),
                    loss=float(losses[inside].mean()),
                    bigram_loss=float(bigram_losses[inside].mean()),
                )
            )
    return PositionReport(
        sequences=sequences,
        length=length,
        loss=float(losses.mean()),
        bigram_loss=float(bigram_losses.mean()),
        ranges=tuple(ranges),
    )


def length_report(losses: np.ndarray) -> LengthReport:
    """Summarize token losses [sequences, length] of one length."""
    sequences, length = losses.shape
    edges = [round(length * quarter / 4) for quarter in range(5)]
    return LengthReport(
        length=length,
        sequences=sequences,
        whole=span(losses, 0, length),
        ranges=tuple(span(losses, start, stop) for start, stop in position_ranges(length)),
        quarters=tuple(span(losses, start, stop) for start, stop in pairwise(edges)),
    )


def span(losses: np.ndarray, start: int, stop: int) -> Span:
    """The mean of losses [sequences, length] over a range of positions: over tokens, of which all sequences have as
    many."""
    each = losses[:, start:stop].mean(axis=1)
    error = float(each.std(ddof=1)) / math.sqrt(len(each)) if len(each) > 1 else None
    return Span(
        start=start, stop=stop, tokens=len(each) * (stop - start), loss=float(each.mean()), standard_error=error
    )
