"""Which layers of a hybrid model are linear and which attend, by a ratio or a list, and what mixes in the linear ones.

`R:1` is R linear layers to one full one, as the systematic analysis of hybrids (arXiv 2507.06457) names its models. The
layers are dealt into as many groups as come nearest to the ratio, of equal length as far as they go, and the last layer
of each group is full. A ratio fits where this gives it to within one linear layer: of 24 layers, 3:1 makes 6 full ones,
6:1 makes 3 (7:1), 12:1 makes 2 (11:1) and 24:1 makes 1 (23:1).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec

from ringattn.planner.architecture import Architecture, HybridArchitecture
from ringattn.planner.mixers import MIXER_NAMES, LinearSizes, paper_sizes
from ringattn.schedule.states import check_route
from ringattn.sequence.layout import split
from ringattn.sequence.suggest import suggest

PURE, FULL = "pure", "full"
# What computes linear attentions, `ringattn.layers.linear.kernels`: auto takes the first of the others that serves.
LINEAR_KERNELS = ("auto", "fla", "torch")

# The names in a list, and transformers' names for them.
KINDS = {kind: f"{kind}_attention" for kind in ("linear", "full", "sliding")}


@dataclass(frozen=True, kw_only=True)
class HybridSettings:
    """What makes a LLaMA a hybrid; `ringattn.models.hybrid.HybridConfig` says what each is.

    pattern: a ratio, `pure`, `full`, or the kinds of all layers with commas between. rope_layers: `full`, `sliding`,
    both with a comma between, or `none`. linear_heads and the rest: the mixer's paper's where null.
    """

    mixer: str = "gated_deltanet"
    pattern: str = "3:1"
    linear_heads: int | None = None
    linear_key_dim: int | None = None
    linear_value_dim: int | None = None
    conv_width: int = 4
    sliding_window: int | None = None
    rope_layers: str = "full,sliding"
    state_route: str = "allgather"
    kernel: str = "auto"

    def listed_pattern(self) -> str | tuple[str, ...]:
        return tuple(name.strip() for name in self.pattern.split(",")) if "," in self.pattern else self.pattern

    def listed_rope_layers(self) -> tuple[str, ...]:
        return () if self.rope_layers == "none" else tuple(name.strip() for name in self.rope_layers.split(","))


def hybrid_of(sizes: Architecture, settings: HybridSettings) -> HybridArchitecture:
    """The sizes of the hybrid that `settings` make of a LLaMA; `check_hybrid` holds for them."""
    heads, key_dim, value_dim = paper_sizes(settings.mixer, sizes.hidden_size)
    return HybridArchitecture(
        **{item.name: getattr(sizes, item.name) for item in fields(Architecture)},
        linear=LinearSizes(
            mixer=settings.mixer,
            hidden_size=sizes.hidden_size,
            heads=settings.linear_heads or heads,
            key_dim=settings.linear_key_dim or key_dim,
            value_dim=settings.linear_value_dim or value_dim,
            conv_width=settings.conv_width,
        ),
        pattern=layer_kinds(settings.listed_pattern(), sizes.layers),
        sliding_window=settings.sliding_window,
    )


def check_hybrid(settings: HybridSettings, *, layers: int) -> None:
    """ValueError where a rule of the settings is broken; those of the mixer's sizes are the model's."""
    if settings.mixer not in MIXER_NAMES:
        raise ValueError(
            f"model.hybrid.mixer is one of {', '.join(MIXER_NAMES)}, got {settings.mixer!r}"
            f"{suggest(settings.mixer, MIXER_NAMES)}"
        )
    kinds = layer_kinds(settings.listed_pattern(), layers)
    if "sliding" in kinds and (settings.sliding_window is None or settings.sliding_window < 1):
        raise ValueError(
            "sliding layers need model.hybrid.sliding_window, how many keys a token sees, got "
            f"{settings.sliding_window}: write for example model.hybrid.sliding_window=512."
        )
    check_route(settings.state_route)
    if settings.kernel not in LINEAR_KERNELS:
        raise ValueError(
            f"model.hybrid.kernel is one of {', '.join(LINEAR_KERNELS)}, got {settings.kernel!r}"
            f"{suggest(settings.kernel, LINEAR_KERNELS)}"
        )
    if settings.kernel == "fla" and find_spec("fla") is None:
        raise ValueError(
            "model.hybrid.kernel=fla needs the package flash-linear-attention, which is not installed: pip install "
            "'ringattn[fla]', or write model.hybrid.kernel=auto."
        )
    for name in ("linear_heads", "linear_key_dim", "linear_value_dim", "conv_width"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ValueError(f"model.hybrid.{name} is at least 1, got {value}: leave it out for the paper's.")


def layer_kinds(pattern: str | Sequence[str], layers: int) -> tuple[str, ...]:
    """`linear`, `full` or `sliding` for each of `layers` layers.

    Raises:
        ValueError: a ratio that does not fit the layers, a list of another length, an unknown name.
    """
    if layers < 1:
        raise ValueError(f"a model has at least 1 layer, got {layers}")
    if not isinstance(pattern, str):
        return _listed(pattern, layers)
    if pattern == PURE:
        return ("linear",) * layers
    if pattern == FULL:
        return ("full",) * layers
    found = re.fullmatch(r"([1-9]\d*):1", pattern)
    if found is None:
        names = (PURE, FULL, "24:1", "12:1", "6:1", "3:1")
        raise ValueError(
            f"a pattern of layers is R:1 (linear to full), {PURE}, {FULL}, or a list of {', '.join(KINDS)}, got "
            f"{pattern!r}{suggest(pattern, names)}"
        )
    ratio = int(found[1])
    full = _full_layers(ratio, layers)
    if not _fits(ratio, layers):
        known = [f"{one}:1" for one in range(layers - 1, 0, -1) if _fits(one, layers)]
        counts = [count for count in range(1, 4 * (ratio + 1)) if _fits(ratio, count)]
        near = sorted(counts, key=lambda count: abs(count - layers))[:3]
        raise ValueError(
            f"the pattern {pattern} does not fit {layers} layers, {full or 'none'} of which would be full: with "
            f"{layers} layers {', '.join(known[:6]) or 'only pure and full'} would fit, and {pattern} would with "
            f"{', '.join(str(count) for count in sorted(near))} layers; or list the kind of each layer"
        )
    kinds = ["linear"] * layers
    for group in split(range(layers), full):
        kinds[group[-1]] = "full"
    return tuple(kinds)


def _full_layers(ratio: int, layers: int) -> int:
    """The number of full layers that comes nearest to `ratio` linear ones for each."""
    return (2 * layers + ratio + 1) // (2 * (ratio + 1))


def _fits(ratio: int, layers: int) -> bool:
    full = _full_layers(ratio, layers)
    return 0 < full < layers and abs((layers - full) - ratio * full) <= full


def _listed(pattern: Sequence[str], layers: int) -> tuple[str, ...]:
    for name in pattern:
        if name not in KINDS:
            raise ValueError(
                f"unknown kind of layer {name!r}{suggest(name, list(KINDS))}; there are {', '.join(KINDS)}"
            )
    if len(pattern) != layers:
        raise ValueError(
            f"a list of layers names each of them: {len(pattern)} names for num_hidden_layers={layers}: change one"
        )
    return tuple(pattern)
