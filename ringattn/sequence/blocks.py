"""What a mask leaves of the blocks (query chunk i, key chunk j)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ringattn.sequence.layout import Layout, positions_of
from ringattn.sequence.mask import Mask


def visible_blocks(mask: Mask, query_layout: Layout, key_layout: Layout) -> NDArray[np.bool_]:
    """bool [query chunks, key chunks]: True where a query of chunk i may see a key of chunk j.

    A block is given up only where the interval from the first key that any query of i sees to the last one holds
    no position of j, so True may stand at a block that a striped layout leaves empty after all (it costs a
    kernel nothing), but False never stands at a block with work in it.
    """
    queries, keys = query_layout.length, key_layout.length
    first = np.full(len(query_layout.chunks), keys, dtype=np.int64)
    last = np.zeros(len(query_layout.chunks), dtype=np.int64)
    for index, chunk in enumerate(query_layout.chunks):
        if len(chunk):
            start, stop = mask.intervals(positions_of([chunk]), queries=queries, keys=keys)
            seeing = stop > start
            if seeing.any():
                first[index], last[index] = start[seeing][0], stop[seeing][-1]
    # How many elements of range(a, b, s) lie below x is ceil((x - a) / s), kept within 0 .. len.
    a = np.asarray([chunk.start for chunk in key_layout.chunks], dtype=np.int64)
    s = np.asarray([chunk.step for chunk in key_layout.chunks], dtype=np.int64)
    n = np.asarray([len(chunk) for chunk in key_layout.chunks], dtype=np.int64)
    below_last = np.clip(-((a - last[:, None]) // s), 0, n)
    below_first = np.clip(-((a - first[:, None]) // s), 0, n)
    return below_last > below_first


def block_areas(
    mask: Mask, query_layout: Layout, key_layout: Layout, *, samples: int | None = None
) -> NDArray[np.float64]:
    """float64 [query chunks, key chunks]: how many (query, key) pairs of each block the mask shows.

    samples: at most so many queries of each chunk are looked at, evenly spread, and stand for the rest; all unless
        given. Enough for an estimate: the area under a diagonal comes out right with one.
    """
    starts = np.asarray([chunk.start for chunk in key_layout.chunks], dtype=np.int64)
    strides = np.asarray([chunk.step for chunk in key_layout.chunks], dtype=np.int64)
    lengths = np.asarray([len(chunk) for chunk in key_layout.chunks], dtype=np.int64)
    areas = np.zeros((len(query_layout.chunks), len(key_layout.chunks)))
    for index, chunk in enumerate(query_layout.chunks):
        if not len(chunk):
            continue
        if samples is None or len(chunk) <= samples:
            positions = positions_of([chunk])
        else:
            middles = (np.arange(samples) + 0.5) * len(chunk) / samples
            positions = chunk.start + chunk.step * middles.astype(np.int64)
        first, last = mask.intervals(positions, queries=query_layout.length, keys=key_layout.length)
        below_last = np.clip(-((starts - last[:, None]) // strides), 0, lengths)
        below_first = np.clip(-((starts - first[:, None]) // strides), 0, lengths)
        areas[index] = (below_last - below_first).sum(axis=0) * (len(chunk) / len(positions))
    return areas
