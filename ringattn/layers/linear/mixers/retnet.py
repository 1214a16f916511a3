"""RetNet's multi-scale retention (Y. Sun et al., arXiv 2307.08621, sections 2.1 to 2.3).

Head h forgets by 1 - 2^(-5 - h) a token; query and key are rotated by position; each head's output is normed, gated by
silu, and projected. Keys as wide as the hidden size, values twice.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ringattn.layers.linear.attention import linear_attention
from ringattn.layers.linear.context import Context
from ringattn.layers.linear.kernels import Family
from ringattn.layers.linear.mixers.mixer import GatedNorm, Mixer, MixerSizes, MixerState, glorot, linear

_THETA = 10000.0


class RetNet(Mixer):
    name = "retnet"
    family = Family.SIMPLE_GLA
    takes_gate_bias = True

    def __init__(self, sizes: MixerSizes) -> None:
        super().__init__(sizes)
        if sizes.key_dim % 2:
            raise ValueError(f"RetNet rotates pairs of channels: key_dim is even, got {sizes.key_dim}")
        self.q_proj = linear(sizes.hidden_size, sizes.keys)
        self.k_proj = linear(sizes.hidden_size, sizes.keys)
        self.v_proj = linear(sizes.hidden_size, sizes.values)
        self.g_proj = linear(sizes.hidden_size, sizes.values, bias=sizes.gate_bias)
        self.norm = GatedNorm(sizes.value_dim, eps=sizes.norm_eps)
        self.o_proj = linear(sizes.values, sizes.hidden_size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        glorot(self.q_proj, self.k_proj, self.v_proj, self.g_proj, self.o_proj)

    def mix(self, hidden: Tensor, context: Context, state: MixerState | None) -> tuple[Tensor, MixerState]:
        query, key, value = (self.by_head(p(hidden)) for p in (self.q_proj, self.k_proj, self.v_proj))
        turn = rotation(context.positions(hidden.device), self.sizes.key_dim, _THETA)
        log_decay = log_retention(self.sizes.heads).to(hidden.device)
        out, matrix = linear_attention(
            rotate(query, *turn),
            rotate(key, *turn),
            value,
            context=context,
            log_decay=log_decay.expand(value.shape[:3]),
            initial_state=None if state is None else state.matrix,
            kernel=self.sizes.kernel,
        )
        out = self.norm(out, self.by_head(self.g_proj(hidden)))
        return self.o_proj(out.flatten(-2)), MixerState(matrix)


def log_retention(heads: int) -> Tensor:
    """float64 [heads]: log(1 - 2^(-5 - h)) (section 2.2; there the exponents of the large models)."""
    return torch.log1p(-torch.exp2(-5 - torch.arange(heads, dtype=torch.float64)))


def rotation(positions: Tensor, channels: int, theta: float) -> tuple[Tensor, Tensor]:
    """(cos, sin), float64 [n, 1, channels / 2], of the angles position / theta^(2 i / channels) (RoFormer, arXiv
    2104.09864, section 3.4.2). In fp64: angles of far positions lose digits in fp32."""
    frequencies = torch.exp(
        torch.arange(0, channels, 2, dtype=torch.float64, device=positions.device) * (-math.log(theta) / channels)
    )
    angles = positions[:, None, None] * frequencies
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [B, n, H, d], its first half of channels with its second half as pairs."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
