"""How a model's sequences are cut over ranks: by its `SequenceParallel`, and for a landmark model between blocks.

Attention then sees the sequence with landmarks, whose layout cuts it between blocks; what a caller holds, tokens and
labels, is cut at the same places without them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ringattn.attention import SequenceParallel
from ringattn.sequence.landmarks import Bounds, are_landmarks, with_landmarks
from ringattn.sequence.layout import Layout
from ringattn.sequence.mask import Mask


@dataclass(frozen=True, eq=False)
class Cut:
    """landmark_block: ordinary tokens of a landmark model's block; None for other models. Lengths and documents are
    those of sequences as a caller knows them, without landmarks, but for `with_landmarks`."""

    sp: SequenceParallel
    landmark_block: int | None = None

    def layout(self, length: int, documents: Bounds = None) -> Layout:
        """The layout of the tokens of a sequence."""
        if self.landmark_block is None:
            return self.sp.layout(length)
        spread, bounds = with_landmarks(length, documents, self.landmark_block)
        return _without_landmarks(self.with_landmarks(spread, bounds), bounds, self.landmark_block)

    def with_landmarks(self, length: int, documents: Bounds) -> Layout:
        """The layout of a sequence with landmarks of that length and those documents."""
        return self.sp.layout(length, Mask(documents=documents, landmark_block=self.landmark_block))

    def last_place(self, position: int) -> int:
        """The last place, in a document with landmarks, of the token that is at `position` without them and the
        landmark behind it."""
        return position if self.landmark_block is None else position + (position + 1) // self.landmark_block

    def positions(self, length: int, documents: Bounds = None) -> Tensor:
        """int64 [n]: the global position of each of this rank's tokens."""
        return torch.from_numpy(self.layout(length, documents).positions(self.sp.rank))

    def shard(self, x: Tensor, dim: int, documents: Bounds = None) -> Tensor:
        """This rank's part of `x` along `dim`, which counts the tokens of the whole sequence."""
        return self.sp.shard(x, dim, layout=self.layout(x.shape[dim], documents))

    def unshard(self, x: Tensor, dim: int, length: int, documents: Bounds = None) -> Tensor:
        """The whole of which every rank holds a part along `dim`. Collective."""
        return self.sp.unshard(x, dim, layout=self.layout(length, documents))


@lru_cache(maxsize=64)
def _without_landmarks(layout: Layout, documents: Bounds, block: int) -> Layout:
    """The tokens of a layout with landmarks, numbered without these."""
    places = np.arange(layout.length, dtype=np.int64)
    landmark = are_landmarks(places, layout.length, documents, block)
    # How many tokens stand before each place.
    before = np.concatenate([[0], np.cumsum(~landmark)])
    chunks = tuple(
        range(int(before[chunk.start]), int(before[chunk.stop])) if len(chunk) else range(0) for chunk in layout.chunks
    )
    return Layout(layout.name, int(before[-1]), layout.world, chunks)
