"""A task's landmark attention as one band for each document: which blocks its rows and its keys are.

Chunks hold landmark blocks whole (`ringattn.sequence.landmarks`), so a task's rows of one document are blocks one
behind the other, in ascending order though not always neighbours, and so are its keys. A row reads each block before
its own through that block's landmark, and the ordinary tokens of its own block up to itself, where that is among the
keys.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ringattn.kernels.bands import Band
from ringattn.sequence.landmarks import Ints, block_numbers
from ringattn.sequence.mask import Mask


@dataclass(frozen=True, eq=False)
class LandmarkBand(Band):
    """Rows and keys of one document, in whole blocks of `stride` tokens, of which the last may be shorter.

    past: int64 [row blocks], how many of the key blocks, counted from the first, are before each row block; these
        have landmarks, and the numbers never fall.
    own: int64 [row blocks], which key block is the row block itself; -1 where it is not among the keys.
    Each row reads at least one key.
    """

    block: int = field(kw_only=True)
    past: Ints = field(kw_only=True)
    own: Ints = field(kw_only=True)

    # A band is itself alone: its rectangle, which two of them may share, does not tell its blocks.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @property
    def stride(self) -> int:
        return self.block + 1

    @property
    def past_blocks(self) -> int:
        """How many key blocks any row reads through their landmarks."""
        return int(self.past[-1])

    def seen(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """bool [rows, keys], the ordinary tokens of its own block that a row reads, and bool [rows, past blocks], the
        blocks it reads through their landmarks."""
        row, key = torch.arange(self.rows), torch.arange(self.keys)
        of_row = torch.div(row, self.stride, rounding_mode="floor")
        past = torch.arange(self.past_blocks) < torch.from_numpy(self.past)[of_row][:, None]
        same = torch.from_numpy(self.own)[of_row][:, None] == torch.div(key, self.stride, rounding_mode="floor")
        inside = (key % self.stride <= (row % self.stride)[:, None]) & (key % self.stride < self.block)
        return (same & inside).to(device), past.to(device)


def find_landmark_bands(query_positions: Ints, key_positions: Ints, mask: Mask, length: int) -> list[LandmarkBand]:
    """The bands of a task with rows and keys at these positions (ascending, blocks whole) of `length`."""
    assert mask.landmark_block is not None
    block = mask.landmark_block
    bands = []
    row_documents, row_blocks = block_numbers(query_positions, length, mask.documents, block)
    key_documents, key_blocks = block_numbers(key_positions, length, mask.documents, block)
    for document in np.intersect1d(row_documents, key_documents):
        row, row_stop = np.searchsorted(row_documents, (document, document + 1))
        key, key_stop = np.searchsorted(key_documents, (document, document + 1))
        # Rows before the first key's block see nothing here, and keys behind the last row's block are not seen.
        row += np.searchsorted(row_blocks[row:row_stop], key_blocks[key])
        if row == row_stop:
            continue
        key_stop = key + np.searchsorted(key_blocks[key:key_stop], row_blocks[row_stop - 1], side="right")
        rows, keys = np.unique(row_blocks[row:row_stop]), np.unique(key_blocks[key:key_stop])
        past = np.searchsorted(keys, rows)
        present = keys[np.minimum(past, len(keys) - 1)] == rows
        bands.append(
            LandmarkBand(
                int(row),
                int(row_stop - row),
                int(key),
                int(key_stop - key),
                block=block,
                past=past,
                own=np.where(present, past, -1),
            )
        )
    return bands
