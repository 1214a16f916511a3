"""DeltaNet (S. Yang et al., arXiv 2406.06484, section 3.4): the delta rule.

A write first takes out what its key would have read, by a share beta in (0, 1).

Query, key and value pass a short convolution with silu; query and key are normed to length 1; a norm on each head's
output, no gate. Heads of 128 channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ringattn.layers.linear.attention import linear_attention
from ringattn.layers.linear.context import Context
from ringattn.layers.linear.convolution import ShortConvolution
from ringattn.layers.linear.kernels import Family
from ringattn.layers.linear.mixers.mixer import Mixer, MixerSizes, MixerState, Norm, glorot, linear, unit, wide


class ConvolvedMixer(Mixer):
    """Query, key and value, each through a map, a short convolution and silu; query and key of length 1."""

    has_convolution = True
    has_value_silu = True

    def __init__(self, sizes: MixerSizes) -> None:
        super().__init__(sizes)
        self.q_proj = linear(sizes.hidden_size, sizes.keys)
        self.k_proj = linear(sizes.hidden_size, sizes.keys)
        self.v_proj = linear(sizes.hidden_size, sizes.values)
        self.b_proj = linear(sizes.hidden_size, sizes.heads)
        # One convolution over all channels: each channel has its own weights, and ranks exchange one halo.
        self.conv = ShortConvolution(
            2 * sizes.keys + sizes.values,
            width=sizes.conv_width,
            activated=None if sizes.value_silu else 2 * sizes.keys,
        )
        self.o_proj = linear(sizes.values, sizes.hidden_size)

    def convolved(
        self, hidden: Tensor, context: Context, state: MixerState | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(query, key [B, n, H, dk], value [B, n, H, dv], the convolution's tail)."""
        projected = torch.cat((self.q_proj(hidden), self.k_proj(hidden), self.v_proj(hidden)), dim=-1)
        mixed, tail = self.conv(projected, context=context, tail=None if state is None else state.tails[0])
        query, key, value = mixed.split((self.sizes.keys, self.sizes.keys, self.sizes.values), dim=-1)
        return unit(self.by_head(query)), unit(self.by_head(key)), self.by_head(value), tail

    def reset_parameters(self) -> None:
        glorot(self.q_proj, self.k_proj, self.v_proj, self.b_proj, self.o_proj)
        self.conv.reset_parameters()


class DeltaNet(ConvolvedMixer):
    name = "deltanet"
    family = Family.DELTA_RULE

    def __init__(self, sizes: MixerSizes) -> None:
        super().__init__(sizes)
        self.norm = Norm(sizes.value_dim, eps=sizes.norm_eps)
        self.reset_parameters()

    def mix(self, hidden: Tensor, context: Context, state: MixerState | None) -> tuple[Tensor, MixerState]:
        query, key, value, tail = self.convolved(hidden, context, state)
        out, matrix = linear_attention(
            query,
            key,
            value,
            context=context,
            beta=wide(self.b_proj(hidden)).sigmoid(),
            initial_state=None if state is None else state.matrix,
            kernel=self.sizes.kernel,
        )
        return self.o_proj(self.norm(out).flatten(-2)), MixerState(matrix, (tail,))
