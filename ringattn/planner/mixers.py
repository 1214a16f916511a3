"""What a linear attention's layer is made of, and what its mixing multiplies: sizes alone, for estimates. No torch.

The mixers are those of `ringattn.layers.linear.mixers`, in the order in which they list their weights; products are
those of `ringattn.layers.linear.chunked`, which has them from GLA (arXiv 2312.06635, section 4.2) and DeltaNet (arXiv
2406.06484, section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from ringattn.schedule.states import StateSizes, Transition

# Tokens that are mixed by products of matrices: `ringattn.layers.linear.pieces`.
PIECE = 64

# Channels between the two maps of GLA's decay (`ringattn.layers.linear.mixers.gla`).
GLA_RANK = 16


class Weight(NamedTuple):
    """A weight by the last part of its name, a bias after its map's. One row stands for a vector, and for whatever maps
    nothing."""

    name: str
    rows: int
    columns: int

    @property
    def size(self) -> int:
        return self.rows * self.columns


class Decay(Enum):
    """NONE; FIXED: a number of each head; HEAD: a number of each token and head; CHANNEL: of each of its channels."""

    NONE = "none"
    FIXED = "fixed"
    HEAD = "head"
    CHANNEL = "channel"


@dataclass(frozen=True)
class _Kind:
    """paper: from the hidden size to (heads, key_dim, value_dim). transition: what a stretch does to a state. delta:
    the delta rule, with a short convolution before query, key and value. decay: what a token's is of. readers: maps
    that read the layer's input."""

    paper: Callable[[int], tuple[int, int, int]]
    transition: Transition
    delta: bool
    decay: Decay
    readers: int


def _by_128(hidden: int) -> tuple[int, int, int]:
    heads = max(1, hidden // 128)
    return heads, hidden // heads, hidden // heads


def _gated_deltanet(hidden: int) -> tuple[int, int, int]:
    heads = max(1, 3 * hidden // 1024)
    key_dim = 3 * hidden // (4 * heads)
    return heads, key_dim, 2 * key_dim


def _retnet(hidden: int) -> tuple[int, int, int]:
    heads = max(1, hidden // 256)
    return heads, hidden // heads, 2 * hidden // heads


_KINDS = {
    "deltanet": _Kind(_by_128, Transition.DENSE, True, Decay.NONE, 4),
    "gated_deltanet": _Kind(_gated_deltanet, Transition.DENSE, True, Decay.HEAD, 6),
    "gla": _Kind(lambda hidden: (4, hidden // 8, hidden // 4), Transition.DIAGONAL, False, Decay.CHANNEL, 5),
    # Its channels stand for themselves.
    "hgrn": _Kind(lambda hidden: (1, 1, hidden), Transition.SCALAR, False, Decay.CHANNEL, 3),
    "hgrn2": _Kind(_by_128, Transition.DIAGONAL, False, Decay.CHANNEL, 3),
    "kda": _Kind(_by_128, Transition.DENSE, True, Decay.CHANNEL, 6),
    "lightning": _Kind(_by_128, Transition.SCALAR, False, Decay.FIXED, 4),
    "retnet": _Kind(_retnet, Transition.SCALAR, False, Decay.FIXED, 4),
}

MIXER_NAMES = tuple(_KINDS)
MIXER_TRANSITIONS = {name: kind.transition for name, kind in _KINDS.items()}


def paper_sizes(mixer: str, hidden_size: int) -> tuple[int, int, int]:
    """(heads, key_dim, value_dim) that the mixer's paper, or its reference implementation, has for a hidden size."""
    return _KINDS[mixer].paper(hidden_size)


@dataclass(frozen=True, kw_only=True)
class HeadSizes:
    """hidden_size: channels in and out. heads; key_dim, value_dim: channels of a head. conv_width: tokens of the short
    convolution, where the mixer has one. gate_bias: a bias in the map that gates the output, where the mixer has such a
    gate, and value_silu: whether its values pass silu, where its paper has them do so; both for models converted from
    others (`ringattn.models.hybrid.convert`).
    """

    hidden_size: int
    heads: int
    key_dim: int
    value_dim: int
    conv_width: int = 4
    gate_bias: bool = False
    value_silu: bool = True

    @property
    def keys(self) -> int:
        return self.heads * self.key_dim

    @property
    def values(self) -> int:
        return self.heads * self.value_dim


@dataclass(frozen=True, kw_only=True)
class LinearSizes(HeadSizes):
    """One layer's mixer, a name of `MIXER_NAMES`."""

    mixer: str

    @property
    def delta(self) -> bool:
        """Whether a write takes out what its key reads; such mixers have a short convolution."""
        return _KINDS[self.mixer].delta

    @property
    def convolved(self) -> int:
        """Channels of the short convolution, 0 where there is none."""
        return 2 * self.keys + self.values if self.delta else 0

    @property
    def decay(self) -> Decay:
        return _KINDS[self.mixer].decay

    def states(self, item_bytes: int = 4) -> StateSizes:
        """The state that travels between ranks, of one sequence. HGRN's channels are heads of one number."""
        heads, value_dim = (self.values, 1) if self.mixer == "hgrn" else (self.heads, self.value_dim)
        return StateSizes(1, heads, self.key_dim, value_dim, _KINDS[self.mixer].transition, item_bytes)

    def readers(self) -> int:
        """How many of its maps read the tokens that the layer is given."""
        return _KINDS[self.mixer].readers

    def bound_channels(self) -> int:
        """Of the lower bounds that a model has for each linear layer's forget gate; 0 where it has none."""
        return {"hgrn": self.values, "hgrn2": self.keys}.get(self.mixer, 0)

    def weights(self) -> list[Weight]:
        """Of each weight, in the mixer's order."""
        hidden, heads, keys, values = self.hidden_size, self.heads, self.keys, self.values
        query, key, value = (Weight(f"{x}_proj", rows, hidden) for x, rows in zip("qkv", (keys, keys, values)))
        out, norm = Weight("o_proj", hidden, values), Weight("norm", 1, self.value_dim)

        def gate(name: str = "g_proj") -> list[Weight]:
            return [Weight(name, values, hidden), *([Weight(f"{name}.bias", 1, values)] if self.gate_bias else [])]

        if self.delta:
            beta, conv = Weight("b_proj", heads, hidden), Weight("conv", 1, self.convolved * self.conv_width)
            maps, rate = [query, key, value, beta, conv, out], Weight("log_rate", 1, heads)
            if self.mixer == "deltanet":
                return [*maps, norm]
            if self.mixer == "gated_deltanet":
                return [rate, Weight("step_bias", 1, heads), *maps, Weight("a_proj", heads, hidden), *gate(), norm]
            thin = [
                Weight("f_down", self.value_dim, hidden),
                Weight("f_up", keys, self.value_dim),
                Weight("g_down", self.value_dim, hidden),
                Weight("g_up", values, self.value_dim),
                Weight("g_up.bias", 1, values),
            ]
            return [rate, Weight("step_bias", 1, keys), *maps, *thin, norm]
        if self.mixer == "gla":
            up = [Weight("decay_up", keys, GLA_RANK), Weight("decay_up.bias", 1, keys)]
            return [query, key, value, *gate(), Weight("decay_down", GLA_RANK, hidden), *up, norm, out]
        if self.mixer == "retnet":
            return [query, key, value, *gate(), norm, out]
        if self.mixer == "lightning":
            return [query, key, value, *gate("u_proj"), out]
        norm = Weight("norm", 1, values)
        if self.mixer == "hgrn2":
            return [query, Weight("f_proj", keys, hidden), Weight("i_proj", values, hidden), norm, out]
        return [Weight("i_proj", values, hidden), Weight("f_proj", values, hidden), *gate(), norm, out]

    def mixing_flops(self, *, spread: bool) -> tuple[float, float]:
        """FLOP of one token's mixing, all heads, forward and backward: the products of the chunked form, in fp32.

        In the forward a token meets the keys of its piece (with a decay of each channel in halves that meet, half of
        the square), the values of its piece, and the state, which it reads and writes. The delta rule adds a product of
        keys, a triangular solve, and two readings of the state. spread: over ranks, where the effect of a rank's tokens
        on a state that comes is made first. HGRN multiplies no matrices. The backward has two products for each, and
        three for a solve.
        """
        if self.mixer == "hgrn":
            return 0.0, 0.0
        rows, columns, piece = self.key_dim, self.value_dim, PIECE
        among_keys = rows * ((piece - 1) / 2 if self.decay is Decay.CHANNEL else piece)
        products = among_keys + piece * columns + 2 * rows * columns + (rows * columns if spread else 0)
        solve = 0.0
        if self.delta:
            products = 2 * among_keys + piece * columns + 4 * rows * columns
            products += 2 * rows * (rows + columns) if spread else 0
            solve = piece / 2 * (rows + columns)
        return 2 * self.heads * (products + solve), 2 * self.heads * (2 * products + 3 * solve)

    def recurrence_flops(self) -> float:
        """FLOP of one token's recurrence, all heads, in the forward: a state is written and read, and with the delta
        rule read once more."""
        return 2 * self.heads * self.key_dim * self.value_dim * (3 if self.delta else 2)
