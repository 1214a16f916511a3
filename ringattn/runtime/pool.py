"""Byte buffers that are taken and given back, so that a step's messages reuse the memory of the steps before."""

from __future__ import annotations

import torch
from torch import Tensor


class BufferPool:
    """uint8 buffers on one device.

    `held` and `peak` count the bytes taken now and at most since `reset_peak`; `kept` those that lie ready. Taken and
    ready buffers together are never more than was once taken at the same time: a size that does not lie ready takes
    the room of others that do.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.held = 0
        self.peak = 0
        self._most = 0
        self._free: list[Tensor] = []

    @property
    def kept(self) -> int:
        return sum(buffer.numel() for buffer in self._free)

    def take(self, size: int) -> Tensor:
        """uint8 [size], contents undefined."""
        self.held += size
        self.peak = max(self.peak, self.held)
        self._most = max(self._most, self.held)
        # The last one given back is the likeliest to be in a cache still.
        for place in range(len(self._free) - 1, -1, -1):
            if self._free[place].numel() == size:
                return self._free.pop(place)
        while self._free and self.held + self.kept > self._most:
            self._free.pop(0)
        return torch.empty(size, dtype=torch.uint8, device=self.device)

    def give_back(self, buffer: Tensor) -> None:
        self.held -= buffer.numel()
        self._free.append(buffer)

    def reset_peak(self) -> None:
        self.peak = self.held

    def release(self) -> None:
        """Free what lies ready."""
        self._free.clear()
