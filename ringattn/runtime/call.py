"""One attention call on one rank, between the tensors a user holds and those the executor moves.

Shared by real ranks (`ringattn.attention`) and virtual ones (`ringattn.virtual`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ringattn.kernels.kernel import Kernel, sum_dtype
from ringattn.runtime.plan import Plan, Problem, compile_plan
from ringattn.schedule.value import Schedule


@dataclass(eq=False)
class Call:
    """What does not change from one call of a shape to the next; plans are compiled when first needed.

    names: what the schedules are called. terms: the call in words, for agreement between ranks. agreed: all ranks have
    said that they make it.
    """

    problem: Problem
    schedule: Schedule
    backward_schedule: Schedule
    kernel: Kernel
    rank: int
    device: torch.device
    names: tuple[str, str] = ("", "")
    terms: dict[str, str] = field(default_factory=dict)
    agreed: bool = False

    @cached_property
    def forward_plan(self) -> Plan:
        return compile_plan(self.problem, self.schedule, self.rank, self.kernel, backward=False, device=self.device)

    @cached_property
    def backward_plan(self) -> Plan:
        return compile_plan(
            self.problem, self.backward_schedule, self.rank, self.kernel, backward=True, device=self.device
        )


def forward_inputs(query: Tensor, key: Tensor, value: Tensor) -> dict[str, Tensor]:
    """[B, n, H, D] tensors as the executor takes them: rows first."""
    return {"query": _rows(query), "key": _rows(key), "value": _rows(value)}


def finish_forward(results: dict[str, Tensor], sinks: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """out [B, n, H, D] in `dtype`, rounded once, and lse [n, B, H] of the whole rows, sinks included.

    A sink is a score without a value: it takes its share of the softmax and adds nothing to out (gpt-oss; Xiao et al.,
    arXiv 2309.17453, section 3.3, with a learned logit). It comes in once, after all partial results are merged.
    """
    out, lse = results["out"], results["lse"]
    if sinks is not None:
        with_sink = torch.logaddexp(lse, sinks.to(lse.dtype))
        out = out * torch.exp(lse - with_sink).unsqueeze(-1)
        lse = with_sink
    return out.to(dtype).transpose(0, 1).contiguous(), lse


def backward_inputs(
    grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor
) -> dict[str, Tensor]:
    """Rows first; delta is the row sums of grad_out x out (FlashAttention-2, arXiv 2307.08691, algorithm 2, line 4)."""
    wide = sum_dtype(query.dtype)
    grad_rows = _rows(grad_out)
    delta = (grad_rows.to(wide) * _rows(out).to(wide)).sum(dim=-1)
    return {**forward_inputs(query, key, value), "grad_out": grad_rows, "lse": lse, "delta": delta}


def finish_backward(results: dict[str, Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, [B, n, H, D] in `dtype`, rounded once."""
    grads = (results[name].to(dtype).transpose(0, 1).contiguous() for name in ("grad_query", "grad_key", "grad_value"))
    grad_query, grad_key, grad_value = grads
    return grad_query, grad_key, grad_value


def sink_gradient(sinks: Tensor, lse: Tensor, delta: Tensor) -> Tensor:
    """[H]: this rank's rows' share of the gradient of the sinks: -p_sink delta, summed over rows."""
    share = torch.exp(sinks.to(lse.dtype) - lse)
    return -(share * delta).sum(dim=(0, 1)).to(sinks.dtype)


def _rows(x: Tensor) -> Tensor:
    """[B, n, H, D] -> [n, B, H, D], a view; the last dimension contiguous, as every kernel asks."""
    rows = x.transpose(0, 1)
    return rows if rows.stride(-1) == 1 or rows.numel() == 0 else rows.contiguous()
