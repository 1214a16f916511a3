"""What is measured: topologies of four hosts, shapes of attention, and the schedules on them, as values."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from typing import Any

from ringattn.launch.compare.settings import CompareConfig, read
from testbed import Kind, Topology, parse_rate

HOSTS = 4
SCHEDULES = (
    "ring",
    "biring",
    "tokenring",
    "tokenring:back=1",
    "allgather",
    "ulysses",
    "usp",
    "doublering",
    "multiring",
    "tile",
)

# Links inside a group over the uplink between groups.
INSIDE_OVER_BETWEEN = 2


@dataclass(frozen=True, order=True)
class Bed:
    """Four hosts joined as `kind`, by links of `rate` ("50Mbit"): of a two-level topology the rate between groups."""

    kind: str
    rate: str

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.rate}"

    def topology(self) -> Topology:
        rate = parse_rate(self.rate)
        if self.kind == Kind.TWO_LEVEL.value:
            return Topology.two_level(HOSTS, inside=2, rate=INSIDE_OVER_BETWEEN * rate, between=rate)
        return Topology(Kind(self.kind), HOSTS, rate)


@dataclass(frozen=True, order=True)
class Case:
    """One shape of attention on one bed."""

    bed: Bed
    query_heads: int
    key_heads: int
    causal: bool

    @property
    def shape(self) -> str:
        return f"{self.query_heads}-{self.key_heads}-{'causal' if self.causal else 'full'}"

    @property
    def name(self) -> str:
        return f"{self.bed.name}-{self.shape}"


@dataclass(frozen=True)
class Effort:
    """How long and how often. length: tokens of the whole sequence."""

    length: int = 1024
    head_dim: int = 64
    repeats: int = 5
    schedules: tuple[str, ...] = SCHEDULES

    def settings(self, case: Case) -> list[str]:
        """Of `ringattn compare`, but for the cluster and the folder."""
        return [
            f"schedules={','.join(self.schedules)}",
            f"length={self.length}",
            f"query_heads={case.query_heads}",
            f"key_heads={case.key_heads}",
            f"head_dim={self.head_dim}",
            f"causal={str(case.causal).lower()}",
            f"repeats={self.repeats}",
            "recorded=1",
            "error=false",
        ]

    def config(self, case: Case) -> CompareConfig:
        return read(self.settings(case), world=HOSTS)

    def described(self) -> dict[str, Any]:
        return asdict(self) | {"schedules": list(self.schedules)}

    @classmethod
    def of(cls, described: dict[str, Any]) -> Effort:
        return cls(**described | {"schedules": tuple(described["schedules"])})


def all_cases(rates: Sequence[str]) -> list[Case]:
    """Bed by bed."""
    return [
        Case(Bed(kind.value, rate), 8, key_heads, causal)
        for rate, kind, key_heads, causal in itertools.product(rates, Kind, (8, 2), (False, True))
    ]


def choose(cases: Sequence[Case], patterns: Sequence[str], *, quick: bool) -> list[Case]:
    """Those whose name fits one of `patterns`; quick: only multi-head, without a mask.

    Raises:
        ValueError: a pattern that fits none.
    """
    if quick:
        cases = [case for case in cases if case.key_heads == case.query_heads and not case.causal]
    for pattern in patterns:
        if not any(_fits(case, pattern) for case in cases):
            raise ValueError(
                f"no case fits {pattern!r}: write a name or a pattern of {', '.join(case.name for case in cases)}"
            )
    return [case for case in cases if not patterns or any(_fits(case, pattern) for pattern in patterns)]


def _fits(case: Case, pattern: str) -> bool:
    return fnmatch(case.name, pattern)
