"""Gated linear attention (S. Yang et al., arXiv 2312.06635, section 4.4).

The decay of each key channel is a sigmoid of the token through two thin maps (16 channels between them), to the power
1/16, so that it starts near 1. Keys half as wide as the hidden size, values as wide, 4 heads; a norm on each head's
output, gated by silu.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from ringattn.layers.linear.attention import linear_attention
from ringattn.layers.linear.context import Context
from ringattn.layers.linear.kernels import Family
from ringattn.layers.linear.mixers.mixer import GatedNorm, Mixer, MixerSizes, MixerState, glorot, linear, wide

_RANK = 16
_TEMPERATURE = 16.0


class GLA(Mixer):
    name = "gla"
    family = Family.GLA
    takes_gate_bias = True

    def __init__(self, sizes: MixerSizes) -> None:
        super().__init__(sizes)
        self.q_proj = linear(sizes.hidden_size, sizes.keys)
        self.k_proj = linear(sizes.hidden_size, sizes.keys)
        self.v_proj = linear(sizes.hidden_size, sizes.values)
        self.g_proj = linear(sizes.hidden_size, sizes.values, bias=sizes.gate_bias)
        self.decay_down = linear(sizes.hidden_size, _RANK)
        self.decay_up = linear(_RANK, sizes.keys, bias=True)
        self.norm = GatedNorm(sizes.value_dim, eps=sizes.norm_eps)
        self.o_proj = linear(sizes.values, sizes.hidden_size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        glorot(self.q_proj, self.k_proj, self.v_proj, self.g_proj, self.decay_down, self.decay_up, self.o_proj)

    def mix(self, hidden: Tensor, context: Context, state: MixerState | None) -> tuple[Tensor, MixerState]:
        query, key, value = (self.by_head(p(hidden)) for p in (self.q_proj, self.k_proj, self.v_proj))
        log_decay = functional.logsigmoid(wide(self.decay_up(self.decay_down(hidden)))) / _TEMPERATURE
        out, matrix = linear_attention(
            query,
            key,
            value,
            context=context,
            log_decay=self.by_head(log_decay),
            initial_state=None if state is None else state.matrix,
            kernel=self.sizes.kernel,
        )
        out = self.norm(out, self.by_head(self.g_proj(hidden)))
        return self.o_proj(out.flatten(-2)), MixerState(matrix)
