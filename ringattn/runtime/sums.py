"""Sums of partial results: their beginning, and those over rows in another order than the chunks'."""

from __future__ import annotations

import torch
from torch import Tensor

from ringattn.kernels.merge import merge_


def clear(sums: dict[str, Tensor]) -> None:
    """The sum over nothing: zeros, and a log-sum-exp of -inf."""
    for name, tensor in sums.items():
        tensor.fill_(float("-inf") if name == "lse" else 0.0)


class OrderedSums:
    """Sums over a task's rows in the order of position, for tasks whose chunks are interleaved."""

    def __init__(self, order: Tensor | None) -> None:
        self._order = order
        self._sums: dict[str, Tensor] = {}

    def add(
        self,
        new: dict[str, Tensor],
        first: int,
        heads: tuple[int, int],
        like: dict[str, Tensor],
        *,
        merged: bool,
    ) -> bool:
        """Take `new`, rows from `first` on; False where the rows need no reordering, and nothing was taken."""
        if self._order is None:
            return False
        if not self._sums:
            whole = like.get("query", like.get("key"))
            assert whole is not None
            for name, tensor in new.items():
                shape = (*whole.shape[:3], *tensor.shape[3:])
                self._sums[name] = torch.empty(shape, dtype=tensor.dtype, device=tensor.device)
            clear(self._sums)
        count = next(iter(new.values())).shape[0]
        target = {name: t[first : first + count, :, heads[0] : heads[1]] for name, t in self._sums.items()}
        if merged:
            merge_(target["out"], target["lse"], new["out"], new["lse"])
        else:
            for name, tensor in new.items():
                target[name].add_(tensor)
        return True

    def in_chunks(self) -> dict[str, Tensor]:
        """The sums with the rows of each chunk together again."""
        if self._order is None:
            return {}
        back = torch.empty_like(self._order)
        back[self._order] = torch.arange(len(back), device=back.device)
        return {name: tensor.index_select(0, back) for name, tensor in self._sums.items()}
