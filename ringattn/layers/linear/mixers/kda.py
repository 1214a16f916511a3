"""Kimi delta attention (Kimi Team, arXiv 2510.26692, sections 3 and 4): Gated DeltaNet with a decay for each channel of
the key.

The decay comes through two thin maps (a head's channels between them), in Mamba-2's form with a rate a head and a bias
a channel; so does the output's gate, a sigmoid on each head's normed output. Heads of 128 channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ringattn.layers.linear.attention import linear_attention
from ringattn.layers.linear.context import Context
from ringattn.layers.linear.kernels import Family
from ringattn.layers.linear.mixers.deltanet import ConvolvedMixer
from ringattn.layers.linear.mixers.gated_deltanet import start_decay
from ringattn.layers.linear.mixers.mixer import GatedNorm, MixerSizes, MixerState, glorot, linear, wide


class KDA(ConvolvedMixer):
    name = "kda"
    family = Family.KDA

    def __init__(self, sizes: MixerSizes) -> None:
        super().__init__(sizes)
        self.f_down = linear(sizes.hidden_size, sizes.value_dim)
        self.f_up = linear(sizes.value_dim, sizes.keys)
        self.g_down = linear(sizes.hidden_size, sizes.value_dim)
        self.g_up = linear(sizes.value_dim, sizes.values, bias=True)
        self.log_rate = nn.Parameter(torch.empty(sizes.heads))
        self.step_bias = nn.Parameter(torch.empty(sizes.keys))
        self.norm = GatedNorm(sizes.value_dim, eps=sizes.norm_eps, gate="sigmoid")
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        glorot(self.f_down, self.f_up, self.g_down, self.g_up)
        start_decay(self.log_rate, self.step_bias)

    def mix(self, hidden: Tensor, context: Context, state: MixerState | None) -> tuple[Tensor, MixerState]:
        query, key, value, tail = self.convolved(hidden, context, state)
        step = functional.softplus(wide(self.f_up(self.f_down(hidden))) + self.step_bias)
        out, matrix = linear_attention(
            query,
            key,
            value,
            context=context,
            log_decay=-wide(self.log_rate).exp()[:, None] * self.by_head(step),
            beta=wide(self.b_proj(hidden)).sigmoid(),
            initial_state=None if state is None else state.matrix,
            kernel=self.sizes.kernel,
        )
        out = self.norm(out, self.by_head(self.g_up(self.g_down(hidden))))
        return self.o_proj(out.flatten(-2)), MixerState(matrix, (tail,))
