"""How big a study is, and its points: which mixer at which ratio. No torch: the command starts without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from ringattn.sequence.suggest import suggest
from ringattn.settings.hybrid import FULL, MIXER_NAMES, PURE, layer_kinds

# The six of the paper, from vector states over matrix states to delta rules (arXiv 2507.06457, section 2).
MIXERS = ("hgrn", "retnet", "gla", "hgrn2", "deltanet", "gated_deltanet")
RATIOS = (PURE, "6:1", "3:1", "1:1", FULL)


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Sizes of all models of a study, what they are trained on and for how long.

    heads: of attention. linear_heads, key_dim, value_dim: of mixers; HGRN has a state of `hidden` numbers.
    vocabulary, length, pairs, batch, steps: of training on recall, whose rows have each number of pairs in turn, and
    then as many of `needles`; 0 leaves needles out, of the tests too. power: of the gaps before queries, in training
    and tests; 1 is uniform, 0.01, the paper's, has as many within 10 tokens as within 10 to 100. lengths: contexts of
    the tests. samples: of each figure. text: `kjv`, a path, or `none`; its three numbers are of training on it.
    """

    layers: int = 8
    hidden: int = 64
    heads: int = 2
    linear_heads: int = 2
    key_dim: int = 8
    value_dim: int = 16
    vocabulary: int = 64
    length: int = 64
    lengths: tuple[int, ...] = (64, 128, 256)
    pairs: tuple[int, ...] = (2, 4, 8, 16)
    power: float = 1.0
    needles: int = 1
    batch: int = 32
    steps: int = 2000
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 3e-3
    samples: int = 64
    text: str = "kjv"
    text_length: int = 128
    text_batch: int = 8
    text_steps: int = 600
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in ("seed", "needles") else 1
            numbers = value if isinstance(value, tuple) else (value,)
            if not numbers or any(isinstance(one, int) and one < least for one in numbers):
                raise ValueError(f"--{field.name.replace('_', '-')} is at least {least}, got {_shown(value) or 'none'}")
        for name in ("power", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"--{name.replace('_', '-')} is above 0, got {getattr(self, name)}")
        if self.optimizer not in ("adamw", "muon"):
            raise ValueError(f"--optimizer is adamw or muon, got {self.optimizer!r}")
        if self.hidden % (2 * self.heads):
            raise ValueError(
                f"--hidden {self.hidden} must be --heads {self.heads} times an even number: change one of them"
            )
        for length in (self.length, *self.lengths):
            if length < 4 * max(self.pairs):
                raise ValueError(
                    f"recall of {max(self.pairs)} pairs takes {4 * max(self.pairs)} tokens, four a pair, but a context "
                    f"has {length}: raise --length and --lengths or lower --pairs"
                )
        if max(self.pairs) > self.vocabulary // 2 - 1:
            raise ValueError(
                f"keys and values are different tokens, so --vocabulary {self.vocabulary} has room for "
                f"{self.vocabulary // 2 - 1} pairs, got {max(self.pairs)}: raise it or lower --pairs"
            )

    @property
    def all_steps(self) -> int:
        """Of one point."""
        return self.steps + (0 if self.text == "none" else self.text_steps)

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Effort:
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()})

    def differences(self, other: Effort) -> list[str]:
        """`--steps 2000, not 100`: of what this is and the other is not."""
        ours, theirs = self.plain(), other.plain()
        return [
            f"--{name.replace('_', '-')} {_shown(value)}, not {_shown(theirs[name])}"
            for name, value in ours.items()
            if value != theirs[name]
        ]


# A look at the whole way within minutes; its figures say nothing.
QUICK_MIXERS = ("gated_deltanet", "hgrn2")
QUICK_RATIOS = (PURE, "3:1", FULL)
QUICK = Effort(
    layers=4,
    hidden=32,
    length=32,
    lengths=(32, 64),
    pairs=(2, 4),
    batch=8,
    steps=40,
    samples=16,
    text_length=64,
    text_steps=40,
)


@dataclass(frozen=True, order=True)
class Point:
    """One model. mixer: None of the one that is full, which is the same for all mixers."""

    mixer: str | None
    ratio: str

    @property
    def name(self) -> str:
        return FULL if self.mixer is None else f"{self.mixer}-{self.ratio.replace(':', '-')}"

    @property
    def words(self) -> str:
        return "full attention" if self.mixer is None else f"{self.mixer} {self.ratio}"

    def kinds(self, layers: int) -> tuple[str, ...]:
        return layer_kinds(self.ratio, layers)


def points_of(mixers: Sequence[str], ratios: Sequence[str], layers: int) -> tuple[Point, ...]:
    """Every mixer at every ratio, and full attention once, first: if that one does not recall, no other will.

    Raises:
        ValueError: an unknown mixer, a ratio that does not fit the layers, no point at all.
    """
    for mixer in mixers:
        if mixer not in MIXER_NAMES:
            raise ValueError(
                f"unknown mixer {mixer!r}{suggest(mixer, MIXER_NAMES)}; there are {', '.join(MIXER_NAMES)}"
            )
    made: dict[tuple[str, ...], str] = {}
    for ratio in dict.fromkeys(ratios):
        kinds = layer_kinds(ratio, layers)
        if kinds in made:
            raise ValueError(
                f"the ratios {made[kinds]} and {ratio} give the same {layers} layers: drop one, or change --layers"
            )
        made[kinds] = ratio
    if not ratios or (not mixers and set(ratios) != {FULL}):
        raise ValueError(
            "there is nothing to train: give --mixers and --ratios, such as --mixers gated_deltanet --ratios 3:1,full"
        )
    points = [Point(None, FULL)] if FULL in ratios else []
    points += [Point(mixer, ratio) for mixer in dict.fromkeys(mixers) for ratio in made.values() if ratio != FULL]
    return tuple(points)


def in_order(ratios: Sequence[str]) -> list[str]:
    """From no full layer to nothing else."""
    return sorted(set(ratios), key=lambda ratio: {PURE: -1e9, FULL: 1e9}.get(ratio) or -float(ratio.split(":")[0]))


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
