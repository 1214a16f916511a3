"""Byte buffers that are taken and given back, so that a step's messages reuse the memory of the steps before."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor


class BufferPool:
    """uint8 buffers on one device.

    `held` and `peak` count the bytes taken now and at most since `reset_peak`; `kept` those that lie ready.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.held = 0
        self.peak = 0
        self._free: defaultdict[int, list[Tensor]] = defaultdict(list)

    @property
    def kept(self) -> int:
        return sum(size * len(buffers) for size, buffers in self._free.items())

    def take(self, size: int) -> Tensor:
        """uint8 [size], contents undefined."""
        self.held += size
        self.peak = max(self.peak, self.held)
        free = self._free[size]
        return free.pop() if free else torch.empty(size, dtype=torch.uint8, device=self.device)

    def give_back(self, buffer: Tensor) -> None:
        self.held -= buffer.numel()
        self._free[buffer.numel()].append(buffer)

    def reset_peak(self) -> None:
        self.peak = self.held

    def release(self) -> None:
        """Free what lies ready."""
        self._free.clear()
