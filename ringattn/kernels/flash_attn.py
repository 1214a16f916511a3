"""The flash-attn package (FlashAttention-2, arXiv 2307.08691), where it is installed: windows, softcap and grouped
heads natively."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ringattn.kernels.bands import Band
from ringattn.kernels.kernel import Kernel, Request, stand_in_out


class FlashAttn(Kernel):
    """fp16 and bf16, head sizes up to 256, any band: its diagonal is bottom-right, moved by the window's numbers."""

    name = "flash_attn"

    def refusal(self, request: Request) -> str | None:
        if request.device.type != "cuda":
            return f"runs on a CUDA device, and the tensors are on {request.device.type}"
        if find_spec("flash_attn") is None:
            return "the package flash-attn is not installed"
        if request.dtype not in (torch.float16, torch.bfloat16):
            return f"takes float16 and bfloat16, and the tensors are {str(request.dtype).removeprefix('torch.')}"
        if request.head_dim % 8 or request.head_dim > 256:
            return f"takes head sizes that are multiples of 8 up to 256, got {request.head_dim}"
        return None

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, band: Band, *, scale: float, softcap: float | None
    ) -> tuple[Tensor, Tensor]:
        left, right = _window(band)
        out, lse = _package()._flash_attn_forward(
            *(x.transpose(1, 2) for x in (query, key, value)),
            dropout_p=0.0,
            softmax_scale=scale,
            causal=False,
            window_size_left=left,
            window_size_right=right,
            softcap=softcap or 0.0,
            alibi_slopes=None,
            return_softmax=False,
        )[:2]
        return out.transpose(1, 2), lse

    def prepare(self, grad_out: Tensor, delta: Tensor) -> Tensor:
        return stand_in_out(grad_out, delta)

    def backward(
        self,
        grad_out: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        lse: Tensor,
        extra: Tensor,
        band: Band,
        *,
        scale: float,
        softcap: float | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        left, right = _window(band)
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        grads = (torch.empty_like(q), torch.empty_like(k), torch.empty_like(v))
        _package()._flash_attn_backward(
            grad_out.transpose(1, 2).contiguous(),
            q,
            k,
            v,
            extra.transpose(1, 2).contiguous(),
            lse.float().contiguous(),
            *grads,
            dropout_p=0.0,
            softmax_scale=scale,
            causal=False,
            window_size_left=left,
            window_size_right=right,
            softcap=softcap or 0.0,
            alibi_slopes=None,
            deterministic=False,
        )
        grad_query, grad_key, grad_value = (g.transpose(1, 2) for g in grads)
        return grad_query, grad_key, grad_value


@lru_cache(maxsize=1)
def _package() -> Any:
    return import_module("flash_attn.flash_attn_interface")


def _window(band: Band) -> tuple[int, int]:
    """flash-attn's window: row i sees j with -left <= j - (i + keys - rows) <= right; -1 stands for no bound."""
    shift = band.keys - band.rows
    left = -1 if band.low is None else shift - band.low
    right = -1 if band.high is None else band.high - shift
    if left < -1 or right < -1:
        raise ValueError(f"flash-attn has no window for {band}")
    return left, right
