"""The autograd function of attention: which plan runs when, and what is kept between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ringattn.runtime.call import (
    Call,
    backward_inputs,
    finish_backward,
    finish_forward,
    forward_inputs,
    sink_gradient,
)
from ringattn.runtime.kept import keep

if TYPE_CHECKING:
    from ringattn.attention.parallel import SequenceParallel


class Attention(torch.autograd.Function):
    """Attention's forward and backward under the schedules of a `Call`."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        sinks: Tensor | None,
        sp: SequenceParallel,
        call: Call,
        kept: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        if kept is not None:
            out, lse = kept
        else:
            # A forward, unlike a backward, runs under its caller's autocast, which would round what kernels widened.
            with torch.autocast(query.device.type, enabled=False):
                results = sp._run(call.forward_plan, call, forward_inputs(query, key, value))
                out, lse = finish_forward(results, sinks, query.dtype)
            keep(sp._keeping, call, out, lse)
        ctx.save_for_backward(query, key, value, sinks, out, lse)
        ctx.sp, ctx.call = sp, call
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, sinks, out, lse = ctx.saved_tensors
        inputs = backward_inputs(grad_out, query, key, value, out, lse)
        results = ctx.sp._run(ctx.call.backward_plan, ctx.call, inputs)
        grad_query, grad_key, grad_value = finish_backward(results, query.dtype)
        grad_sinks = None if sinks is None else sink_gradient(sinks, lse, inputs["delta"])
        return grad_query, grad_key, grad_value, grad_sinks, None, None, None
