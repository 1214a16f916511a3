"""Which layers of a hybrid model are linear and which attend: by a ratio, or a list. No torch.

`R:1` is R linear layers to one full one, as the systematic analysis of hybrids (arXiv 2507.06457) names its models. The
layers are dealt into as many groups as come nearest to the ratio, of equal length as far as they go, and the last layer
of each group is full. A ratio fits where this gives it to within one linear layer: of 24 layers, 3:1 makes 6 full ones,
6:1 makes 3 (7:1), 12:1 makes 2 (11:1) and 24:1 makes 1 (23:1).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ringattn.sequence.layout import split, suggest

PURE, FULL = "pure", "full"
# The names in a list, and transformers' names for them.
KINDS = {"linear": "linear_attention", "full": "full_attention", "sliding": "sliding_attention"}


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
