"""Where landmarks stand in a sequence, and what its blocks are.

Landmark attention (Mohtashami and Jaggi, arXiv 2305.16300, section 3) puts a landmark token behind each full run of
`block` ordinary tokens of a document. A block is such a run with its landmark, `block + 1` tokens; a document's last
block may be shorter and has no landmark then. Lengths and document bounds below are those of a sequence *with*
landmarks, but for what `with_landmarks` takes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bounds = tuple[int, ...] | None


@dataclass(frozen=True)
class Blocks:
    """The blocks of `block` ordinary tokens and a landmark, of which a sequence's documents are made."""

    block: int
    documents: Bounds = None

    def cut(self, whole: range, parts: int, length: int) -> list[range]:
        """`whole`, which begins and ends where blocks do, cut into `parts` consecutive ranges of whole blocks.

        As even in tokens as blocks allow; some are empty where there are too few. length: of the sequence.
        """
        borders = block_borders(length, self.documents, self.block)
        inside = borders[np.searchsorted(borders, whole.start) : np.searchsorted(borders, whole.stop, side="right")]
        wanted = whole.start + np.arange(1, parts) * (len(whole) / parts)
        after = np.searchsorted(inside, wanted).clip(1, max(1, len(inside) - 1)) if len(inside) > 1 else None
        if after is None:
            cuts = [whole.stop] * (parts - 1)
        else:
            nearer = np.where(wanted - inside[after - 1] <= inside[after] - wanted, inside[after - 1], inside[after])
            cuts = [int(cut) for cut in nearer]
        return [range(a, b) for a, b in itertools.pairwise([whole.start, *cuts, whole.stop])]

    def check(self, chunks: Sequence[range], length: int) -> None:
        """Raise ValueError where a block of a sequence of `length` tokens is not inside one of `chunks`."""
        borders = block_borders(length, self.documents, self.block)
        for chunk in chunks:
            ends = (chunk.start, chunk.stop)
            if len(chunk) and (chunk.step != 1 or not np.isin(ends, borders, kind="sort").all()):
                raise ValueError(
                    f"a landmark block must lie in one chunk whole, but {chunk} does not begin and end where blocks of "
                    f"{self.block} tokens and a landmark do; make the layout for the mask: "
                    "make_layout(name, length, world, mask) with the mask's landmark_block"
                )


def with_landmarks(length: int, documents: Bounds, block: int) -> tuple[int, Bounds]:
    """The length and the documents' bounds of a sequence of `length` ordinary tokens once landmarks are in it.

    documents: cumulative lengths from 0 to `length`; None for one document, and None is returned then.
    """
    bounds = np.asarray(_bounds(length, documents, block), dtype=np.int64)
    sizes = np.diff(bounds)
    after = np.concatenate([[0], np.cumsum(sizes + sizes // block)])
    return int(after[-1]), None if documents is None else tuple(int(bound) for bound in after)


def landmark_positions(length: int, documents: Bounds, block: int) -> Ints:
    """int64, ascending: the positions of the landmarks."""
    return np.flatnonzero(are_landmarks(np.arange(length, dtype=np.int64), length, documents, block))


def ordinary_positions(length: int, documents: Bounds, block: int) -> Ints:
    """int64, ascending: the positions of the ordinary tokens, in the order they had without landmarks."""
    return np.flatnonzero(~are_landmarks(np.arange(length, dtype=np.int64), length, documents, block))


def are_landmarks(positions: Ints, length: int, documents: Bounds, block: int) -> NDArray[np.bool_]:
    """bool, like `positions`: whether a landmark stands there."""
    return _offsets(positions, length, documents, block)[1] % (block + 1) == block


def block_numbers(positions: Ints, length: int, documents: Bounds, block: int) -> tuple[Ints, Ints]:
    """int64 twice, like `positions`: the document of each, and the number of its block in that document, from 0."""
    document, offset = _offsets(positions, length, documents, block)
    return document, offset // (block + 1)


@lru_cache(maxsize=64)
def block_borders(length: int, documents: Bounds, block: int) -> Ints:
    """int64, ascending: where blocks begin, and `length` behind them; the only places where chunks may be cut."""
    bounds = np.asarray(_bounds(length, documents, block), dtype=np.int64)
    starts = [np.arange(a, b, block + 1, dtype=np.int64) for a, b in itertools.pairwise(bounds)]
    borders = np.concatenate([*starts, [length]]).astype(np.int64)
    borders.setflags(write=False)
    return borders


def _offsets(positions: Ints, length: int, documents: Bounds, block: int) -> tuple[Ints, Ints]:
    """The document of each position, and how far from its start it stands."""
    bounds = np.asarray(_bounds(length, documents, block), dtype=np.int64)
    document = np.searchsorted(bounds, positions, side="right") - 1
    return document, positions - bounds[np.minimum(document, len(bounds) - 1)]


def _bounds(length: int, documents: Bounds, block: int) -> tuple[int, ...]:
    if block < 1:
        raise ValueError(f"a landmark block has at least 1 ordinary token, got landmark_block {block}")
    if documents is None:
        return (0, length)
    if documents[0] != 0 or documents[-1] != length:
        raise ValueError(
            f"documents holds cumulative lengths from 0 to the length of the sequence, {length}; "
            f"got bounds from {documents[0]} to {documents[-1]}"
        )
    return tuple(documents)
