"""torch's CUDA attention operators, each with its log-sum-exp and a backward that takes the merged one.

A band that an operator has no flag for is cut into full rectangles and squares below their diagonal as far as that
goes; strips under a window take the memory-efficient operator's bias.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ringattn.kernels.bands import Band
from ringattn.kernels.kernel import Kernel, Request, stand_in_out, visible

_aten = torch.ops.aten


class _Cuda(Kernel):
    """What the three operators share: where they run, and the bands they take without a bias."""

    dtypes: tuple[torch.dtype, ...] = (torch.float16, torch.bfloat16)
    largest_head = 256

    def refusal(self, request: Request) -> str | None:
        if request.device.type != "cuda":
            return f"runs on a CUDA device, and the tensors are on {request.device.type}"
        if request.softcap is not None:
            return "has no softcap"
        if request.dtype not in self.dtypes:
            names = ", ".join(str(dtype).removeprefix("torch.") for dtype in self.dtypes)
            return f"takes {names}, and the tensors are {str(request.dtype).removeprefix('torch.')}"
        if request.head_dim % 8 or request.head_dim > self.largest_head:
            return f"takes head sizes that are multiples of 8 up to {self.largest_head}, got {request.head_dim}"
        return None

    def prepare(self, grad_out: Tensor, delta: Tensor) -> Tensor:
        return stand_in_out(grad_out, delta)


def _squares(band: Band) -> list[Band]:
    """`band` as rectangles, full or square and causal; one with a lower bound stays as it is."""
    if band.low is None and band.high is None:
        return [band]
    if band.low is None and band.high == 0:
        side = min(band.rows, band.keys)
        below = [Band(band.row + side, band.rows - side, band.key, band.keys)] if band.rows > side else []
        return [Band(band.row, side, band.key, side, None, 0), *below]
    if band.low is None and band.high is not None:
        rest = Band(band.row, band.rows, band.key + band.high, band.keys - band.high, None, 0)
        return [Band(band.row, band.rows, band.key, band.high), *_squares(rest)]
    return [band]


class CudaFlash(_Cuda):
    """`_scaled_dot_product_flash_attention`: FlashAttention-2; fp16 and bf16. No windows."""

    name = "cuda_flash"

    def lower(self, band: Band) -> list[Band]:
        return _squares(band)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, band: Band, *, scale: float, softcap: float | None
    ) -> tuple[Tensor, Tensor]:
        if band.low is not None:
            return _EFFICIENT.forward(query, key, value, band, scale=scale, softcap=softcap)
        out, lse = _aten._scaled_dot_product_flash_attention(
            query, *_expanded(query, key, value), 0.0, band.high == 0, False, scale=scale
        )[:2]
        return out, lse

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
        if band.low is not None:
            return _EFFICIENT.backward(grad_out, query, key, value, lse, extra, band, scale=scale, softcap=softcap)
        wide_key, wide_value = _expanded(query, key, value)
        no_seed = torch.empty(0, dtype=torch.int64)
        grads = _aten._scaled_dot_product_flash_attention_backward(
            grad_out.contiguous(),
            query,
            wide_key,
            wide_value,
            extra.contiguous(),
            lse.float().contiguous(),
            None,
            None,
            band.rows,
            band.keys,
            0.0,
            band.high == 0,
            no_seed,
            no_seed,
            scale=scale,
        )
        return _reduced(grads, key)


class CudaEfficient(_Cuda):
    """`_scaled_dot_product_efficient_attention`: fp32 too, and any band through a bias."""

    name = "cuda_efficient"
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    largest_head = 512

    def lower(self, band: Band) -> list[Band]:
        return _squares(band)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, band: Band, *, scale: float, softcap: float | None
    ) -> tuple[Tensor, Tensor]:
        bias = _bias(band, query)
        out, lse = _aten._scaled_dot_product_efficient_attention(
            query, *_expanded(query, key, value), bias, True, 0.0, bias is None and band.high == 0, scale=scale
        )[:2]
        # The operator pads lse to a multiple of 32 rows.
        return out, lse[..., : band.rows]

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
        bias = _bias(band, query)
        padded = torch.nn.functional.pad(lse.float(), (0, -band.rows % 32), value=float("inf"))
        wide_key, wide_value = _expanded(query, key, value)
        no_seed = torch.empty(0, dtype=torch.int64, device=query.device)
        grads = _aten._scaled_dot_product_efficient_attention_backward(
            grad_out.contiguous(),
            query,
            wide_key,
            wide_value,
            bias,
            extra.contiguous(),
            padded.contiguous(),
            no_seed,
            no_seed,
            0.0,
            (True, True, True, False),
            bias is None and band.high == 0,
            scale=scale,
        )
        return _reduced(grads[:3], key)


class CudaCudnn(_Cuda):
    """`_scaled_dot_product_cudnn_attention`: cuDNN's fused attention; fp16 and bf16, head sizes up to 128."""

    name = "cuda_cudnn"
    largest_head = 128

    def lower(self, band: Band) -> list[Band]:
        return _squares(band)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, band: Band, *, scale: float, softcap: float | None
    ) -> tuple[Tensor, Tensor]:
        if band.low is not None:
            return _EFFICIENT.forward(query, key, value, band, scale=scale, softcap=softcap)
        out, lse = _aten._scaled_dot_product_cudnn_attention(
            query, *_expanded(query, key, value), None, True, 0.0, band.high == 0, False, scale=scale
        )[:2]
        return out, lse.reshape(out.shape[:3])

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
        if band.low is not None:
            return _EFFICIENT.backward(grad_out, query, key, value, lse, extra, band, scale=scale, softcap=softcap)
        wide_key, wide_value = _expanded(query, key, value)
        no_seed = torch.empty(0, dtype=torch.int64, device=query.device)
        grads = _aten._scaled_dot_product_cudnn_attention_backward(
            grad_out.contiguous(),
            query,
            wide_key,
            wide_value,
            extra.contiguous(),
            lse.float().contiguous().unsqueeze(-1),
            no_seed,
            no_seed,
            None,
            None,
            None,
            band.rows,
            band.keys,
            0.0,
            band.high == 0,
            scale=scale,
        )
        return _reduced(grads, key)


_EFFICIENT = CudaEfficient()


def _bias(band: Band, query: Tensor) -> Tensor | None:
    """The operator's additive bias for a window, [B, H, rows, keys], its rows padded in memory as it asks."""
    if band.low is None:
        return None
    inside = visible(band, query.device)
    assert inside is not None
    bias = torch.zeros(band.rows, band.keys + -band.keys % 16, dtype=query.dtype, device=query.device)
    bias = bias[:, : band.keys].masked_fill_(~inside, float("-inf"))
    return bias.expand(query.shape[0], query.shape[1], -1, -1)


def _expanded(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    repeat = query.shape[1] // key.shape[1]
    if repeat == 1:
        return key, value
    return key.repeat_interleave(repeat, dim=1), value.repeat_interleave(repeat, dim=1)


def _reduced(grads: tuple[Tensor, ...], key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of repeated key heads summed in fp32 onto the heads that were repeated."""
    grad_query, grad_key, grad_value = grads
    batch, heads = key.shape[:2]
    if grad_key.shape[1] != heads:
        grad_key, grad_value = (
            g.float().view(batch, heads, -1, *g.shape[2:]).sum(dim=2) for g in (grad_key, grad_value)
        )
    return grad_query, grad_key, grad_value
