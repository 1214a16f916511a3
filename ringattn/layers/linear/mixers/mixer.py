"""What all mixers share: one interface, sizes per head, the state that generation carries, norms per head."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ringattn.layers.linear.context import Context
from ringattn.layers.linear.kernels import Family, Request, check_kernel, explain_kernels
from ringattn.planner.mixers import HeadSizes, paper_sizes

# Tokens that a CPU mixes at a time.
_PART = 2048


@dataclass(frozen=True, kw_only=True)
class MixerSizes(HeadSizes):
    """layer, layers: which layer of how many this is, for decays that depend on it. norm_eps: of the output's norm.
    kernel: `ringattn.layers.linear.kernels`."""

    layer: int = 0
    layers: int = 1
    norm_eps: float = 1e-5
    kernel: str = "auto"

    def __post_init__(self) -> None:
        for name in ("hidden_size", "heads", "key_dim", "value_dim", "conv_width", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"a mixer's {name} is at least 1, got {getattr(self, name)}")
        if not 0 <= self.layer < self.layers:
            raise ValueError(f"layer counts from 0 to layers - 1, got layer {self.layer} of {self.layers}")
        check_kernel(self.kernel)


@dataclass(frozen=True)
class MixerState:
    """What a mixer must know of the tokens read so far; its size does not grow with them.

    matrix: [B, H, dk, dv] ([B, D] of HGRN), fp32 at least. tails: the last inputs of each short convolution,
    [B, width - 1, C].
    """

    matrix: Tensor
    tails: tuple[Tensor, ...] = ()

    @property
    def bytes(self) -> int:
        return self.matrix.nbytes + sum(tail.nbytes for tail in self.tails)


@dataclass
class Carry:
    """Where a mixer finds the state to go on from, None at a text's start, and leaves the new one."""

    state: MixerState | None = None


class Mixer(nn.Module, ABC):
    """Mixes tokens by a linear recurrence: [B, n, D] -> [B, n, D].

    `forward` reads a whole sequence, of which this rank holds the tokens that `context` says. `extend` goes on from a
    state, in one process, by any number of tokens: a prompt at once, then one token at a time.

    Raises ValueError where the sizes do not fit the mixer.
    """

    name: ClassVar[str]
    # What its recurrence is, to choose a kernel by.
    family: ClassVar[Family]
    # Whether its query, key and value pass a short convolution.
    has_convolution = False
    # Whether a bias can be added to the map that gates its output, and silu on its values be left out.
    takes_gate_bias = False
    has_value_silu = False

    def __init__(self, sizes: MixerSizes) -> None:
        super().__init__()
        self.sizes = sizes
        if not self.has_convolution and sizes.conv_width != MixerSizes.conv_width:
            raise ValueError(
                f"{type(self).__name__} has no short convolution, got conv_width={sizes.conv_width}: leave it out"
            )
        if sizes.gate_bias and not self.takes_gate_bias:
            raise ValueError(f"{type(self).__name__} takes no bias in its gate, got gate_bias=True: leave it out")
        if not (sizes.value_silu or self.has_value_silu):
            raise ValueError(f"{type(self).__name__} has no silu on values, got value_silu=False: leave it out")
        check_kernel(sizes.kernel, self.family, key_dim=sizes.key_dim, value_dim=sizes.value_dim)

    @classmethod
    def paper_sizes(cls, hidden_size: int) -> tuple[int, int, int]:
        """(heads, key_dim, value_dim) that the paper, or its reference implementation, has for a hidden size."""
        return paper_sizes(cls.name, hidden_size)

    @abstractmethod
    def reset_parameters(self) -> None:
        """The initialisation of the paper."""

    @abstractmethod
    def mix(self, hidden: Tensor, context: Context, state: MixerState | None) -> tuple[Tensor, MixerState]:
        """(out [B, n, D], the state after the last local token)."""

    def forward(self, hidden: Tensor, *, context: Context, carry: Carry | None = None) -> Tensor:
        """hidden: [B, n, D], this rank's tokens. Returns [B, n, D]. Collective where the context spans ranks.

        carry: takes the state after the last local token; one process also goes on from what it holds.
        """
        context.check(hidden)
        state = None if carry is None else carry.state
        outs = []
        for part, own in _parts(hidden, context):
            out, state = self.mix(part, own, state)
            outs.append(out)
        if carry is not None:
            carry.state = state
        return outs[0] if len(outs) == 1 else torch.cat(outs, dim=1)

    def extend(
        self, hidden: Tensor, state: MixerState | None = None, *, position: int = 0, lower_bound: Tensor | None = None
    ) -> tuple[Tensor, MixerState]:
        """hidden: [B, n, D], the tokens from `position` on, after those that made `state`. Returns (out, new state)."""
        carry = Carry(state)
        run = range(position, position + hidden.shape[1])
        out: Tensor = self(hidden, context=Context((run,), lower_bound=lower_bound), carry=carry)
        assert carry.state is not None
        return out, carry.state

    def kernels(self, dtype: torch.dtype, *, device: str = "cpu") -> list[tuple[str, str]]:
        """Each kernel, with `chosen`, `serves`, or why it can't serve such tokens; in the order of preference."""
        # HGRN's channels are fp32 whatever its tokens are.
        dtype = torch.float32 if self.family is Family.HGRN and dtype != torch.float64 else dtype
        sizes = self.sizes
        request = Request(torch.device(device), dtype, self.family, sizes.key_dim, sizes.value_dim)
        return explain_kernels(request, sizes.kernel)

    def by_head(self, x: Tensor) -> Tensor:
        """[B, n, H d] -> [B, n, H, d]."""
        return x.unflatten(-1, (self.sizes.heads, -1))


def _parts(hidden: Tensor, context: Context) -> list[tuple[Tensor, Context]]:
    """The tokens [B, n, D] as they are mixed one part after the other: all at once, but for those of one process on a
    CPU, whose caches and allocator hold parts of one size at the same cost however many there are."""
    if context.sp is not None or hidden.device.type != "cpu" or hidden.shape[1] <= _PART:
        return [(hidden, context)]
    (run,) = context.runs
    runs = [run[start : start + _PART] for start in range(0, len(run), _PART)]
    parts = hidden.split(_PART, dim=1)
    return [(part, dataclasses.replace(context, runs=(own,))) for part, own in zip(parts, runs, strict=True)]


class GatedNorm(nn.Module):
    """RMS norm over the last dim, then times gate(g) (FusedRMSNormGated in the papers' reference code).

    gate: `silu` or `sigmoid`. The norm is computed in fp32 at least.
    """

    def __init__(self, channels: int, *, eps: float, gate: str = "silu") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.eps = eps
        self.gate: Callable[[Tensor], Tensor] = functional.silu if gate == "silu" else torch.sigmoid

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps) * self.gate(gate)


class Norm(nn.Module):
    """RMS norm over the last dim, in fp32 at least."""

    def __init__(self, channels: int, *, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """x / rms(x) [* weight]; computed in fp32 at least, returned in the dtype of x."""
    normal = functional.rms_norm(wide(x), (x.shape[-1],), eps=eps).to(x.dtype)
    return normal if weight is None else normal * weight.to(x.dtype)


def unit(x: Tensor) -> Tensor:
    """x / |x| over the last dim, in fp32 at least, safe at 0: the delta rule's keys, whose overwriting is then a
    reflection or a projection and never grows a state (DeltaNet, arXiv 2406.06484, section 3.4)."""
    long = wide(x)
    return (long * (long.square().sum(-1, keepdim=True) + 1e-6).rsqrt()).to(x.dtype)


def glorot(*layers: nn.Linear, gain: float = 2**-2.5) -> None:
    """Xavier-uniform weights with RetNet's gain (arXiv 2307.08621, reference code; GLA keeps it), biases 0."""
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight, gain=gain)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def linear(inputs: int, outputs: int, *, bias: bool = False) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=bias)


def wide(x: Tensor) -> Tensor:
    """x in fp32, or fp64 where it is: decays are too near to 1 for fewer bits."""
    return x if x.dtype == torch.float64 else x.float()
