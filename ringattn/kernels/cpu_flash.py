"""torch's flash attention for CPU (aten's `_scaled_dot_product_flash_attention_for_cpu`), exact and five times as
fast as a matrix product with softmax.

16-bit inputs are computed in fp32: the operator would round each partial result to 16 bits, and an error that
grows with the number of ranks is what ringattn must not have (nor are these types faster on most CPUs: on one
with AVX2 alone the operator's bf16 backward takes eleven times as long as fp32).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ringattn.kernels.bands import Band
from ringattn.kernels.kernel import Kernel, Request, stand_in_out, sum_dtype, visible

_FORWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

# Rows of one call under a mask tensor, at least; wide windows take more, so that the masked corners stay a small part.
_MASKED_ROWS = 256


class CpuFlash(Kernel):
    """Any band and head size; no softcap."""

    name = "cpu_flash"

    def refusal(self, request: Request) -> str | None:
        if request.device.type != "cpu":
            return f"runs on a CPU, and the tensors are on {request.device.type}"
        if request.softcap is not None:
            return "has no softcap"
        return None

    def lower(self, band: Band) -> list[Band]:
        """Full rectangles and squares below their main diagonal are native; other bands are cut up, or masked."""
        if band.low is not None:
            return _strips(band)
        if band.high is None or band.high == 0:
            return [band]
        rest = band.keys - band.high
        return [
            Band(band.row, band.rows, band.key, band.high),
            Band(band.row, band.rows, band.key + band.high, rest, None, 0),
        ]

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, band: Band, *, scale: float, softcap: float | None
    ) -> tuple[Tensor, Tensor]:
        wide = sum_dtype(query.dtype)
        causal, mask = _mask(band, wide)
        return _FORWARD(query.to(wide), key.to(wide), value.to(wide), 0.0, causal, attn_mask=mask, scale=scale)

    def prepare(self, grad_out: Tensor, delta: Tensor) -> Tensor:
        return stand_in_out(grad_out.to(delta.dtype), delta)

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
        wide = sum_dtype(query.dtype)
        causal, mask = _mask(band, wide)
        return _BACKWARD(
            grad_out.to(wide),
            query.to(wide),
            key.to(wide),
            value.to(wide),
            extra,
            lse,
            0.0,
            causal,
            attn_mask=mask,
            scale=scale,
        )


def _mask(band: Band, dtype: torch.dtype) -> tuple[bool, Tensor | None]:
    """The operator's causal flag, and its mask tensor [1, 1, rows, keys] where the flag does not do."""
    if band.low is None and band.high in (None, 0):
        return band.high == 0, None
    inside = visible(band, torch.device("cpu"))
    mask = torch.zeros(band.rows, band.keys, dtype=dtype)
    if inside is not None:
        mask.masked_fill_(~inside, float("-inf"))
    return False, mask[None, None]


def _strips(band: Band) -> list[Band]:
    """A window cut into strips of rows, each with the keys that its rows see."""
    assert band.low is not None
    width = band.keys if band.high is None else min(band.keys, band.high - band.low + 1)
    each = max(_MASKED_ROWS, width // 2)
    strips = []
    for i in range(0, band.rows, each):
        rows = min(each, band.rows - i)
        first = max(0, i + band.low)
        stop = band.keys if band.high is None else min(band.keys, i + rows - 1 + band.high + 1)
        low = band.low + i - first
        high = None if band.high is None else band.high + i - first
        keys = stop - first
        strips.append(
            Band(
                band.row + i,
                rows,
                band.key + first,
                keys,
                low if low + rows - 1 > 0 else None,
                high if high is not None and high < keys - 1 else None,
            )
        )
    return strips
