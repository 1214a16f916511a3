"""A task's mask as few bands: rectangles of a score matrix between two diagonals.

In a task, the rows of queries and of keys are in ascending order of position, so what a row sees is one interval of
key indices, and intervals never move back (`ringattn.sequence.mask`). Piece by piece the bounds stand still or move
by one a row; pieces are joined as long as one band describes them, so that causal attention on a zigzag shard, say,
is one kernel call and not one for each pair of chunks.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from ringattn.sequence.mask import Ints


@dataclass(frozen=True)
class Band:
    """Rows [row, row + rows) see keys [key, key + keys) where, counted from `row` and `key`, low <= j - i <= high.

    A bound of None stands for one that cuts nothing off. Each row sees at least one key.
    """

    row: int
    rows: int
    key: int
    keys: int
    low: int | None = None
    high: int | None = None

    @property
    def area(self) -> int:
        """The number of scores inside the band."""
        i = np.arange(self.rows)
        start = np.zeros(self.rows, dtype=np.int64) if self.low is None else np.maximum(0, i + self.low)
        stop = np.full(self.rows, self.keys) if self.high is None else np.minimum(self.keys, i + self.high + 1)
        return int((stop - start).sum())


def find_bands(start: Ints, stop: Ints) -> list[Band]:
    """The bands that cover, for each row i, the keys start[i] <= j < stop[i], and nothing else."""
    bands: list[Band] = []
    current: tuple[int, int] | None = None
    for first, last in _pieces(start, stop):
        if current is not None and current[1] == first and (joined := _fit(start, stop, current[0], last)):
            current, bands[-1] = (current[0], last), joined
            continue
        band = _fit(start, stop, first, last)
        if band is None:
            raise AssertionError(f"rows {first} to {last} do not form a band")
        current = (first, last)
        bands.append(band)
    return bands


def _pieces(start: Ints, stop: Ints) -> list[tuple[int, int]]:
    """Half-open runs of rows that see something, in which each bound stands still or moves by one a row."""
    seeing = stop > start
    if len(start) == 0 or not seeing.any():
        return []
    slope = np.stack([np.diff(start), np.diff(stop)], axis=1)
    fits = ((slope == 0) | (slope == 1)).all(axis=1) & seeing[1:] & seeing[:-1]
    # A run ends after row i where the step to row i + 1 does not fit, or is another than the step before it.
    turns = np.zeros(len(fits), dtype=bool)
    turns[1:] = fits[1:] & fits[:-1] & (slope[1:] != slope[:-1]).any(axis=1)
    # After a turn the next run has its first step still open, so two turns in a row end one run, not two.
    borders = [0]
    for i in np.flatnonzero(~fits | turns):
        if fits[i] and borders[-1] == i:
            continue
        borders.append(int(i) + 1)
    borders.append(len(start))
    return [(a, b) for a, b in itertools.pairwise(borders) if b > a and seeing[a]]


def _fit(start: Ints, stop: Ints, first: int, last: int) -> Band | None:
    """The band of rows [first, last), if one describes them.

    With the bounds known to be piecewise linear with slopes 0 and 1, it is enough to compare where a slope can
    change; comparing every row is as clear and runs once for a shape.
    """
    starts, stops = start[first:last], stop[first:last]
    rows, key, keys = last - first, int(starts[0]), int(stops[-1] - starts[0])
    i = np.arange(rows)
    low = high = None
    if starts[-1] > key:
        low = int((starts - key - i)[np.flatnonzero(starts > key)[0]])
        if not np.array_equal(starts - key, np.maximum(0, i + low)):
            return None
    if stops[0] < key + keys:
        high = int(stops[0] - key - 1)
        if not np.array_equal(stops - key, np.minimum(keys, i + high + 1)):
            return None
    return Band(first, rows, key, keys, low, high)
