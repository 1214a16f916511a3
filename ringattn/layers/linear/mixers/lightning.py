"""Lightning attention (Z. Qin et al., arXiv 2405.17381) in TransNormer's layer (2307.14995, section 3.1).

Head h of H in layer l of L forgets by exp(-(8 h / H) (1 - l / L)) a token, h counted from 1: fixed, slower in upper
layers. Query and key through silu; the output normed without weights over all heads, then times a map of the token.
The state is the plain sum of outer products: unlike softmax, no normalizer.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ringattn.layers.linear.attention import linear_attention
from ringattn.layers.linear.context import Context
from ringattn.layers.linear.kernels import Family
from ringattn.layers.linear.mixers.mixer import Mixer, MixerSizes, MixerState, glorot, linear, rms_norm


class Lightning(Mixer):
    name = "lightning"
    family = Family.SIMPLE_GLA
    takes_gate_bias = True

    def __init__(self, sizes: MixerSizes) -> None:
        super().__init__(sizes)
        self.q_proj = linear(sizes.hidden_size, sizes.keys)
        self.k_proj = linear(sizes.hidden_size, sizes.keys)
        self.v_proj = linear(sizes.hidden_size, sizes.values)
        self.u_proj = linear(sizes.hidden_size, sizes.values, bias=sizes.gate_bias)
        self.o_proj = linear(sizes.values, sizes.hidden_size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        glorot(self.q_proj, self.k_proj, self.v_proj, self.u_proj, self.o_proj)

    def mix(self, hidden: Tensor, context: Context, state: MixerState | None) -> tuple[Tensor, MixerState]:
        query, key = (self.by_head(functional.silu(p(hidden))) for p in (self.q_proj, self.k_proj))
        value = self.by_head(self.v_proj(hidden))
        log_decay = log_forgetting(self.sizes).to(hidden.device)
        out, matrix = linear_attention(
            query,
            key,
            value,
            context=context,
            log_decay=log_decay.expand(value.shape[:3]),
            initial_state=None if state is None else state.matrix,
            kernel=self.sizes.kernel,
        )
        out = rms_norm(out.flatten(-2), None, self.sizes.norm_eps) * self.u_proj(hidden)
        return self.o_proj(out), MixerState(matrix)


def log_forgetting(sizes: MixerSizes) -> Tensor:
    """float64 [heads], of TransNormerLLM, section 3.1.1."""
    heads = torch.arange(1, sizes.heads + 1, dtype=torch.float64)
    return -(8 * heads / sizes.heads) * (1 - sizes.layer / sizes.layers)
