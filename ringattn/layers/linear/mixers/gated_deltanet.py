"""Gated DeltaNet (S. Yang, J. Kautz, A. Hatamizadeh, arXiv 2412.06464, section 3): the delta rule under a decay.

The decay is Mamba-2's (arXiv 2405.21060): exp(-exp(A) softplus(a_t + bias)), one number a head, with exp(A) uniform in
(0, 16) and the softplus of the bias log-uniform in (0.001, 0.1) at the start. Otherwise DeltaNet, with a silu gate on
the normed output. Values twice as wide as keys, which are three quarters of the hidden size: heads of 256 and 512.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from ringattn.layers.linear.attention import linear_attention
from ringattn.layers.linear.context import Context
from ringattn.layers.linear.kernels import Family
from ringattn.layers.linear.mixers.deltanet import ConvolvedMixer
from ringattn.layers.linear.mixers.mixer import GatedNorm, MixerSizes, MixerState, glorot, linear, wide


class GatedDeltaNet(ConvolvedMixer):
    name = "gated_deltanet"
    family = Family.GATED_DELTA_RULE
    takes_gate_bias = True

    def __init__(self, sizes: MixerSizes) -> None:
        super().__init__(sizes)
        self.a_proj = linear(sizes.hidden_size, sizes.heads)
        self.g_proj = linear(sizes.hidden_size, sizes.values, bias=sizes.gate_bias)
        self.log_rate = nn.Parameter(torch.empty(sizes.heads))
        self.step_bias = nn.Parameter(torch.empty(sizes.heads))
        self.norm = GatedNorm(sizes.value_dim, eps=sizes.norm_eps)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        glorot(self.a_proj, self.g_proj)
        start_decay(self.log_rate, self.step_bias)

    def mix(self, hidden: Tensor, context: Context, state: MixerState | None) -> tuple[Tensor, MixerState]:
        query, key, value, tail = self.convolved(hidden, context, state)
        step = functional.softplus(wide(self.a_proj(hidden)) + self.step_bias)
        out, matrix = linear_attention(
            query,
            key,
            value,
            context=context,
            log_decay=-wide(self.log_rate).exp() * step,
            beta=wide(self.b_proj(hidden)).sigmoid(),
            initial_state=None if state is None else state.matrix,
            kernel=self.sizes.kernel,
        )
        out = self.norm(out, self.by_head(self.g_proj(hidden)))
        return self.o_proj(out.flatten(-2)), MixerState(matrix, (tail,))


@torch.no_grad()
def start_decay(log_rate: Tensor, step_bias: Tensor) -> None:
    """Mamba-2's initialisation, in place (its reference code): rates uniform in (0, 16), steps log-uniform in
    (0.001, 0.1), of which the bias is what softplus makes them from."""
    log_rate.uniform_(1e-4, 16).log_()
    step = torch.empty_like(step_bias).uniform_(math.log(0.001), math.log(0.1)).exp_()
    step_bias.copy_(step + torch.log(-torch.expm1(-step)))
