"""Which tokens stand right before each chunk, and which ranks hold them: what a short causal convolution reads.

A convolution of `width` taps over a chunk reads the width - 1 tokens before it, its *halo*. Where a chunk is shorter
than that, they come from several chunks, and so from several ranks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from functools import lru_cache
from typing import NamedTuple

from ringattn.sequence.layout import Layout
from ringattn.sequence.stretches import stretches


class HaloRows(NamedTuple):
    """Rows that rank `target` reads of rank `source` (itself too): by their place among the source's local tokens, and
    by their place in the target's halo, `chunk * (width - 1) + row`, chunks counted as the rank holds them."""

    source: int
    target: int
    taken: tuple[int, ...]
    placed: tuple[int, ...]


@lru_cache(maxsize=64)
def halo_rows(layout: Layout, width: int, documents: tuple[int, ...] | None = None) -> tuple[HaloRows, ...]:
    """Every row of every halo that lies in the sequence, and in the document of the chunk's first token.

    documents: cumulative lengths from 0 to the length. Sorted by source and target.

    Raises:
        ValueError: the width is below 1, or the layout deals tokens out one by one.
    """
    if width < 1:
        raise ValueError(f"a convolution has a width of 1 token at least, its own, got {width}")
    each = layout.chunks_per_rank
    order = [chunk for stretch in stretches(layout) for chunk in stretch.chunks]
    starts = [layout.chunks[chunk].start for chunk in order]
    before = {chunk: sum(len(other) for other in layout.chunks[chunk // each * each : chunk]) for chunk in order}
    found: defaultdict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for chunk in order:
        start = layout.chunks[chunk].start
        document = documents[bisect_right(documents, start) - 1] if documents else 0
        for position in range(max(start - width + 1, document), start):
            held = order[bisect_right(starts, position) - 1]
            taken = before[held] + position - layout.chunks[held].start
            placed = chunk % each * (width - 1) + position - start + width - 1
            found[held // each, chunk // each].append((taken, placed))
    return tuple(HaloRows(*ends, *zip(*found[ends])) for ends in sorted(found))
