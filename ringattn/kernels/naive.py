"""The reference: softmax(q k^T scale) v written out, with the whole score matrix in memory.

Vaswani et al., arXiv 1706.03762, equation 1; the backward as in FlashAttention-2 (arXiv 2307.08691, section 3.1.2):
dS = P * (dP - delta). Softcapped scores are cap * tanh(s / cap) (Gemma 2, arXiv 2408.00118, section 2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ringattn.kernels.bands import Band
from ringattn.kernels.kernel import Kernel, Request, sum_dtype, visible


class Naive(Kernel):
    """Any device, dtype, band and softcap."""

    name = "naive"

    def refusal(self, request: Request) -> str | None:
        return None

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, band: Band, *, scale: float, softcap: float | None
    ) -> tuple[Tensor, Tensor]:
        scores, _ = _scores(query, key, band, scale, softcap)
        lse = scores.logsumexp(dim=-1)
        out = (scores - lse.unsqueeze(-1)).exp() @ _for_each_query_head(value, query).to(scores.dtype)
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
        scores, slope = _scores(query, key, band, scale, softcap)
        wide = scores.dtype
        grad_out, delta = grad_out.to(wide), extra.to(wide)
        probability = (scores - lse.to(wide).unsqueeze(-1)).exp()
        grad_probability = grad_out @ _for_each_query_head(value, query).to(wide).transpose(-1, -2)
        grad_scores = probability * (grad_probability - delta.unsqueeze(-1)) * scale
        if slope is not None:
            grad_scores = grad_scores * slope
        grad_query = grad_scores @ _for_each_query_head(key, query).to(wide)
        grad_key = _for_each_key_head(grad_scores.transpose(-1, -2) @ query.to(wide), key)
        grad_value = _for_each_key_head(probability.transpose(-1, -2) @ grad_out, value)
        return grad_query, grad_key, grad_value


def _scores(
    query: Tensor, key: Tensor, band: Band, scale: float, softcap: float | None
) -> tuple[Tensor, Tensor | None]:
    """The scores, -inf outside the band, and the slope of the softcap at each."""
    wide = sum_dtype(query.dtype)
    scores = query.to(wide) @ _for_each_query_head(key, query).to(wide).transpose(-1, -2) * scale
    slope = None
    if softcap is not None:
        squashed = torch.tanh(scores / softcap)
        scores, slope = squashed * softcap, 1 - squashed * squashed
    inside = visible(band, query.device)
    if inside is not None:
        scores = scores.masked_fill(~inside, float("-inf"))
    return scores, slope


def _for_each_query_head(x: Tensor, query: Tensor) -> Tensor:
    """[B, Hkv, S, D] -> [B, Hq, S, D]: each key head beside the query heads that share it."""
    return x.repeat_interleave(query.shape[1] // x.shape[1], dim=1)


def _for_each_key_head(x: Tensor, key: Tensor) -> Tensor:
    """[B, Hq, S, D] -> [B, Hkv, S, D]: summed over the query heads that share a key head."""
    batch, heads, rows, dim = x.shape
    return x.view(batch, key.shape[1], heads // key.shape[1], rows, dim).sum(dim=2)
