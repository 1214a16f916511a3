"""HGRN's mixer (Z. Qin, S. Yang, Y. Zhong, arXiv 2311.04823, sections 3.2 and 3.3; real numbers, as in the reference
implementation of HGRN-2's authors).

Each channel is a state of one number: h_t = f_t h_{t-1} + (1 - f_t) silu(c_t), with the forget gate f = b + (1 - b)
sigmoid(.) above a lower bound b that grows with the layer, so that upper layers remember longer. The bound is the
model's (`lower_bounds`) and comes with the context. The output is normed and gated by silu.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ringattn.layers.linear.attention import linear_channels
from ringattn.layers.linear.context import Context
from ringattn.layers.linear.kernels import Family
from ringattn.layers.linear.mixers.mixer import GatedNorm, Mixer, MixerSizes, MixerState, glorot, linear, wide


class HGRN(Mixer):
    """Of its sizes, heads x value_dim are the channels; key_dim is 1."""

    name = "hgrn"
    family = Family.HGRN
    takes_gate_bias = True
    has_value_silu = True

    def __init__(self, sizes: MixerSizes) -> None:
        super().__init__(sizes)
        if sizes.key_dim != 1:
            raise ValueError(f"a state of HGRN is one number: its key_dim is 1, got {sizes.key_dim}")
        self.i_proj = linear(sizes.hidden_size, sizes.values)
        self.f_proj = linear(sizes.hidden_size, sizes.values)
        self.g_proj = linear(sizes.hidden_size, sizes.values, bias=sizes.gate_bias)
        self.norm = GatedNorm(sizes.values, eps=sizes.norm_eps)
        self.o_proj = linear(sizes.values, sizes.hidden_size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        glorot(self.i_proj, self.f_proj, self.g_proj, self.o_proj)

    def mix(self, hidden: Tensor, context: Context, state: MixerState | None) -> tuple[Tensor, MixerState]:
        log_forget, write = forget_gate(self.f_proj(hidden), context.lower_bound)
        value = self.i_proj(hidden)
        value = functional.silu(value) if self.sizes.value_silu else value
        out, matrix = linear_channels(
            wide(value) * write,
            log_forget,
            context=context,
            initial_state=None if state is None else state.matrix,
            kernel=self.sizes.kernel,
        )
        out = self.norm(out.to(value.dtype), self.g_proj(hidden))
        return self.o_proj(out), MixerState(matrix)


def forget_gate(x: Tensor, lower_bound: Tensor | None) -> tuple[Tensor, Tensor]:
    """(log f, 1 - f) of f = b + (1 - b) sigmoid(x), in fp32 at least; 1 - f = (1 - b) sigmoid(-x) loses no digits where
    f is near 1."""
    x = wide(x)
    if lower_bound is None:
        return functional.logsigmoid(x), torch.sigmoid(-x)
    bound = lower_bound.to(x.dtype)
    write = (1 - bound) * torch.sigmoid(-x)
    return torch.log1p(-write.clamp(max=1 - torch.finfo(x.dtype).eps)), write


def lower_bounds(raw: Tensor) -> Tensor:
    """[layers, channels] -> the same, rising from 0 along the layers and below 1 (HGRN, section 3.3): the sum of the
    softmax over layers up to each, less the first."""
    shares = wide(raw).softmax(dim=0)
    return shares.cumsum(dim=0) - shares[:1]
