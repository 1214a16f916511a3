"""Gather the parts of a tensor from all ranks, with the gradient that this has: the sum of what all ranks say of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ringattn.kernels.kernel import sum_dtype
from ringattn.runtime.groups import Groups
from ringattn.sequence.layout import Layout


def gather_rows(x: Tensor, dim: int, layout: Layout, groups: Groups) -> Tensor:
    """The whole along `dim`, in the order of positions. Collective; differentiable."""
    return _Gather.apply(x, dim, layout, groups)


class _Gather(torch.autograd.Function):
    """Forward an all-gather, backward a reduce-scatter; shards are padded to the longest."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, layout: Layout, groups: Groups) -> Tensor:
        ctx.dim, ctx.layout, ctx.groups = dim, layout, groups
        rows = x.movedim(dim, 0)
        each = _longest(layout)
        mine = rows.new_zeros((each, *rows.shape[1:]))
        mine[: rows.shape[0]] = rows
        wire = mine.view(torch.uint8) if mine.dtype == torch.bool else mine
        shards = [torch.empty_like(wire) for _ in range(layout.world)]
        dist.all_gather(shards, wire, group=groups.upward)
        everyone = torch.cat(shards).view(mine.dtype)
        return everyone.index_select(0, _place_of_each(layout).to(x.device)).movedim(0, dim).contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        layout, groups = ctx.layout, ctx.groups
        rows = grad.movedim(ctx.dim, 0)
        each = _longest(layout)
        wide = sum_dtype(rows.dtype)
        everyone = rows.new_zeros((layout.world * each, *rows.shape[1:]), dtype=wide)
        everyone[_place_of_each(layout).to(rows.device)] = rows.to(wide)
        mine = everyone.new_empty((each, *rows.shape[1:]))
        dist.reduce_scatter(mine, list(everyone.chunk(layout.world)), group=groups.upward)
        mine = mine[: layout.local_length(groups.rank)].to(rows.dtype)
        return mine.movedim(0, ctx.dim).contiguous(), None, None, None


def _longest(layout: Layout) -> int:
    return max(layout.local_length(rank) for rank in range(layout.world))


def _place_of_each(layout: Layout) -> Tensor:
    """int64 [length]: where each position lies in the padded shards put one behind the other."""
    each = _longest(layout)
    places = np.empty(layout.length, dtype=np.int64)
    for rank in range(layout.world):
        positions = layout.positions(rank)
        places[positions] = rank * each + np.arange(len(positions))
    return torch.from_numpy(places)
