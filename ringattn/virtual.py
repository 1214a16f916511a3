"""A whole world of ranks in one process: each rank's part of a schedule, played one after another.

No process group is needed, so every schedule can be checked anywhere (on one GPU, say) with the plans, buffers and
kernels that real ranks run. Messages are copied from buffer to buffer, and bytes are counted as on a wire.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ringattn.attention import SequenceParallel
from ringattn.planner.cluster import Cluster
from ringattn.runtime.arguments import Options
from ringattn.runtime.call import (
    Call,
    backward_inputs,
    finish_backward,
    finish_forward,
    forward_inputs,
    sink_gradient,
)
from ringattn.runtime.executor import Executor
from ringattn.runtime.plan import Plan
from ringattn.runtime.transport import Mailboxes, VirtualTransport
from ringattn.schedule.value import Schedule
from ringattn.sequence.layout import Layout


class VirtualWorld:
    """`world` ranks that one process plays. The arguments are those of `SequenceParallel`.

    ranks: the `SequenceParallel` of each rank; its `counter` and `pool()` tell what that rank sent and held.
    """

    def __init__(
        self,
        world: int,
        schedule: str | Schedule = "ring",
        layout: str | Layout = "zigzag",
        *,
        backward: str | Schedule | None = None,
        kernel: str = "auto",
        cluster: str | Cluster | None = None,
    ) -> None:
        if world < 1:
            raise ValueError(f"a world has at least 1 rank, got {world}")
        mailboxes = Mailboxes(world)
        self.ranks = [
            SequenceParallel.over(
                VirtualTransport(rank, mailboxes), schedule, layout, backward=backward, kernel=kernel, cluster=cluster
            )
            for rank in range(world)
        ]

    def attention(
        self, query: Tensor, key: Tensor, value: Tensor, *, sinks: Tensor | None = None, **options: Any
    ) -> list[Tensor]:
        """What `SequenceParallel.attention` returns on each rank, given the whole query, key and value.

        query: [B, length, Hq, D]; key, value: [B, key length, Hkv, D]. Returns one [B, n, Hq, D] a rank.
        Differentiable, with the gradients of all ranks put together. options: those of `attention`, except lengths.
        """
        mask = Options(**options).mask()
        layouts = [
            self.ranks[0].layout(x.shape[1], mask if mask.landmark_block is not None else None) for x in (query, key)
        ]
        shards = [
            [
                x.index_select(1, torch.from_numpy(layout.positions(rank)).to(x.device))
                for x, layout in zip((query, key, value), (*layouts, layouts[1]))
            ]
            for rank in range(len(self.ranks))
        ]
        calls = [
            sp.call(q, k, v, Options(length=query.shape[1], key_length=key.shape[1], **options), sinks=sinks)
            for sp, (q, k, v) in zip(self.ranks, shards)
        ]
        flat = [x for shard in shards for x in shard]
        return list(_WorldAttention.apply(self, calls, sinks, *flat))

    def run(
        self, calls: Sequence[Call], plan_of: Callable[[Call], Plan], inputs: Sequence[dict[str, Tensor]]
    ) -> list[dict[str, Tensor]]:
        """Play one direction of all ranks, phase by phase; the results of each."""
        executors = [
            Executor(plan_of(call), of_rank, call.kernel, sp.transport, sp.pool(call.device), sp.counter, timeout=1.0)
            for sp, call, of_rank in zip(self.ranks, calls, inputs)
        ]
        runs = [executor.phases() for executor in executors]
        while True:
            ended = [next(run, "ended") == "ended" for run in runs]
            if all(ended):
                return [executor.results for executor in executors]


class _WorldAttention(torch.autograd.Function):
    """All ranks' forward, and all ranks' backward."""

    @staticmethod
    def forward(
        ctx: Any, world: VirtualWorld, calls: list[Call], sinks: Tensor | None, *flat: Tensor
    ) -> tuple[Tensor, ...]:
        shards = [flat[i : i + 3] for i in range(0, len(flat), 3)]
        results = world.run(calls, lambda c: c.forward_plan, [forward_inputs(*shard) for shard in shards])
        finished = [finish_forward(result, sinks, flat[0].dtype) for result in results]
        ctx.world, ctx.calls, ctx.sinks, ctx.shards, ctx.finished = world, calls, sinks, shards, finished
        return tuple(out for out, _ in finished)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        inputs = [
            backward_inputs(grad, *shard, *finished) for grad, shard, finished in zip(grads, ctx.shards, ctx.finished)
        ]
        results = ctx.world.run(ctx.calls, lambda c: c.backward_plan, inputs)
        dtype = ctx.shards[0][0].dtype
        of_inputs = [grad for result in results for grad in finish_backward(result, dtype)]
        of_sinks = None
        if ctx.sinks is not None:
            shares = [
                sink_gradient(ctx.sinks, finished[1], of_rank["delta"])
                for finished, of_rank in zip(ctx.finished, inputs)
            ]
            of_sinks = torch.stack(shares).sum(dim=0)
        return None, None, of_sinks, *of_inputs
