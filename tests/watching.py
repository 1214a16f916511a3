"""What a test sees of memory that it does not own."""

import torch

from ringattn.runtime.pool import BufferPool


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """While it is entered: the number of elements of the largest tensor that an operation gave."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


def poison_buffers(monkeypatch):
    """From here on what is read from a buffer before it is written is NaN."""
    take = BufferPool.take

    def take_poisoned(self, size):
        buffer = take(self, size)
        buffer.fill_(255)
        return buffer

    monkeypatch.setattr(BufferPool, "take", take_poisoned)
