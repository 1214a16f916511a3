"""Where landmarks stand in a sequence, and what its blocks are.

Landmark attention (Mohtashami and Jaggi, arXiv 2305.16300, section 3) puts a landmark token behind each full run of
`block` ordinary tokens of a document. A block is such a run with its landmark, `block + 1` tokens; a document's last
block may be shorter and has no landmark then. Lengths and document bounds below are those of a sequence *with*
landmarks, but for what `with_landmarks` takes.
"""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bounds = tuple[int, ...] | None


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
