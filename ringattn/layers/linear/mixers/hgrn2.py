"""HGRN-2's mixer (Z. Qin et al., arXiv 2404.07904, section 3.2): HGRN's state expanded to a matrix by an outer product.

The key is 1 minus the forget gate, and the forget gate is the decay of its channel; there are no maps of its own for
either. Heads of 128 channels; the output is normed over all of them.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from ringattn.layers.linear.attention import linear_attention
from ringattn.layers.linear.context import Context
from ringattn.layers.linear.kernels import Family
from ringattn.layers.linear.mixers.hgrn import forget_gate
from ringattn.layers.linear.mixers.mixer import Mixer, MixerSizes, MixerState, Norm, glorot, linear


class HGRN2(Mixer):
    name = "hgrn2"
    family = Family.GLA

    def __init__(self, sizes: MixerSizes) -> None:
        super().__init__(sizes)
        self.q_proj = linear(sizes.hidden_size, sizes.keys)
        self.f_proj = linear(sizes.hidden_size, sizes.keys)
        self.i_proj = linear(sizes.hidden_size, sizes.values)
        self.norm = Norm(sizes.values, eps=sizes.norm_eps)
        self.o_proj = linear(sizes.values, sizes.hidden_size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        glorot(self.q_proj, self.f_proj, self.i_proj, self.o_proj)

    def mix(self, hidden: Tensor, context: Context, state: MixerState | None) -> tuple[Tensor, MixerState]:
        log_forget, key = forget_gate(self.f_proj(hidden), context.lower_bound)
        value = self.i_proj(hidden)
        out, matrix = linear_attention(
            self.by_head(functional.silu(self.q_proj(hidden))),
            self.by_head(key),
            self.by_head(value),
            context=context,
            log_decay=self.by_head(log_forget),
            initial_state=None if state is None else state.matrix,
            kernel=self.sizes.kernel,
        )
        return self.o_proj(self.norm(out.flatten(-2))), MixerState(matrix)
