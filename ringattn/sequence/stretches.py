"""A layout's chunks in the order of the sequence, for what passes from token to token: states, a convolution's halo.

A recurrence goes through the chunks as they follow each other in the sequence, not as ranks hold them. Chunks that
follow each other on one rank are one *stretch*: nothing travels inside it. With zigzag over P ranks there are 2P - 1
of them (the two in the middle are one rank's), with contiguous P.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from ringattn.sequence.layout import LAYOUTS, Layout

# Those that give ranks runs of consecutive tokens.
RUN_LAYOUTS = tuple(name for name in LAYOUTS if name != "striped")


class Stretch(NamedTuple):
    """Consecutive positions on one rank: its chunks, by their number in `Layout.chunks`, none of them empty."""

    rank: int
    chunks: tuple[int, ...]


@lru_cache(maxsize=256)
def stretches(layout: Layout) -> tuple[Stretch, ...]:
    """The stretches of a layout in the order of the sequence; chunks without tokens are in none.

    Raises:
        ValueError: the layout deals tokens out one by one (`striped`).
    """
    found: list[Stretch] = []
    held = [number for number, chunk in enumerate(layout.chunks) if len(chunk)]
    for number in sorted(held, key=lambda number: layout.chunks[number].start):
        chunk, rank = layout.chunks[number], number // layout.chunks_per_rank
        if chunk.step != 1:
            raise ValueError(
                f"a state passes through runs of consecutive tokens, and layout {layout.name!r} deals "
                "tokens out to the ranks one by one; choose layout contiguous, zigzag or balanced"
            )
        if found and found[-1].rank == rank:
            found[-1] = Stretch(rank, (*found[-1].chunks, number))
        else:
            found.append(Stretch(rank, (number,)))
    return tuple(found)
