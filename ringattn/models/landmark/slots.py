"""Where retrieved blocks stand for the one who reads them: arXiv 2305.16300, section 3.4 ("stingy position mapping").

A model meets no position beyond those that it was trained on, however long the text: before the window there is room
for k + 1 blocks. The k that lie last before the window keep their distance to it, in the last k places. Older ones are
searched as if each stood in the first place; once chosen, they fill the places from the left, in their order, and the
chosen ones among the last k from the right.

With `plain` positions a block stands where it stood in the text.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ringattn.settings.retrieval import RetrievalConfig


class Slots:
    """Places of whole blocks; block t's first token stands at slot * (block + 1)."""

    def __init__(self, config: RetrievalConfig, block: int) -> None:
        self.stingy = config.positions == "stingy"
        self.k, self._stride = config.k, block + 1

    def window_start(self, blocks: int) -> int:
        """The position of the window's first token, with so many blocks before it."""
        return (self.k + 1 if self.stingy else blocks) * self._stride

    def of_searched(self, numbers: Tensor, blocks: int) -> Tensor:
        """The slots at which the landmarks of blocks `numbers` (int64) are searched, of `blocks` past ones."""
        if not self.stingy:
            return numbers
        return (numbers - blocks + self.k + 1).clamp(min=0)

    def of_retrieved(self, chosen: Tensor, blocks: int) -> Tensor:
        """The slots of the chosen blocks, int64 [..., m] ascending in their last dim, of `blocks` past ones."""
        if not self.stingy:
            return chosen
        # With fewer blocks than k, all of them are among the last k.
        count = chosen.shape[-1]
        order = torch.arange(count, device=chosen.device) + (self.k - count)
        return torch.where(chosen >= blocks - self.k, order + 1, order)
