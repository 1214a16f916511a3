"""Which transfers are timed to find out how ranks are joined, and what came of them. No torch.

One pair alone says what a connection carries; what is shared shows when several carry at once: one rank to all
others, all to one, both ways, every rank to another, all of one group to all of another.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Flow = tuple[int, int]

# Up to so many ranks every ordered pair is timed, above a sample.
EVERY_PAIR = 8

# Rates of pairs inside and outside a group differ by this factor at least.
_GROUP_GAP = 1.4


class Scenario(NamedTuple):
    """Transfers of the same size that start together. kind: `pair`, `both ways`, `fan-out`, `fan-in`, `shift`,
    `groups`. flows: (source, target)."""

    kind: str
    name: str
    flows: tuple[Flow, ...]

    @property
    def busiest(self) -> int:
        """How many transfers the rank with the most of them sends, or receives."""
        sends, receives = Counter(s for s, _ in self.flows), Counter(t for _, t in self.flows)
        return max(*sends.values(), *receives.values())


class Measured(NamedTuple):
    """size: bytes of each transfer. seconds: until the last one was there."""

    scenario: Scenario
    size: int
    seconds: float

    @property
    def rate(self) -> float:
        """Bytes/s of all transfers together."""
        return len(self.scenario.flows) * self.size / self.seconds


def pairs(world: int) -> list[Scenario]:
    """One transfer at a time: every ordered pair, or on many ranks neighbours and all with rank 0."""
    if world <= EVERY_PAIR:
        flows = [(i, j) for i in range(world) for j in range(world) if i != j]
    else:
        near = [(i, (i + 1) % world) for i in range(world)]
        far = [(0, i) for i in range(2, world)]
        flows = list(dict.fromkeys([*near, *((j, i) for i, j in near), *far, *((j, i) for i, j in far)]))
    return [Scenario("pair", f"{i} to {j}", ((i, j),)) for i, j in flows]


def together(world: int) -> list[Scenario]:
    """Several transfers at a time."""
    some = range(world) if world <= EVERY_PAIR else sorted({round(i * world / EVERY_PAIR) for i in range(EVERY_PAIR)})
    found = [Scenario("both ways", f"{i} and {i + 1}", ((i, i + 1), (i + 1, i))) for i in some if i + 1 < world]
    if world == 2:
        return found
    for kind, turn in (("fan-out", False), ("fan-in", True)):
        for i in some:
            flows = [(j, i) if turn else (i, j) for j in range(world) if j != i]
            found.append(Scenario(kind, f"all to {i}" if turn else f"{i} to all", tuple(flows)))
    for distance in range(1, world) if world <= 4 else sorted({1, world // 2, world - 1}):
        flows = [(i, (i + distance) % world) for i in range(world)]
        found.append(Scenario("shift", f"each to the {distance}. next", tuple(flows)))
    return found


def between_groups(groups: Sequence[Sequence[int]]) -> list[Scenario]:
    """All of a group to as many of the next group, at once."""
    found = []
    for index, group in enumerate(groups):
        other = groups[(index + 1) % len(groups)]
        flows = tuple((rank, other[position % len(other)]) for position, rank in enumerate(group))
        if len(group) > 1:
            found.append(Scenario("groups", f"group {index} to group {(index + 1) % len(groups)}", flows))
    return found


def pair_rates(measured: Sequence[Measured]) -> dict[Flow, float]:
    """Bytes/s of each pair that was timed alone."""
    return {m.scenario.flows[0]: m.rate for m in measured if m.scenario.kind == "pair"}


def find_groups(rates: Mapping[Flow, float], world: int) -> list[list[int]]:
    """Ranks that reach each other much faster than the others: the widest gap between rates divides them.

    Empty where there are no such groups, or where they are not between one rank and all.
    """
    slower = {flow: min(rate, rates.get(flow[::-1], rate)) for flow, rate in rates.items()}
    ascending = sorted(slower.values())
    gaps = [(high / low, math.sqrt(low * high)) for low, high in itertools.pairwise(ascending)]
    if not gaps or max(gaps)[0] < _GROUP_GAP:
        return []
    border = max(gaps)[1]
    member = list(range(world))
    for (i, j), rate in slower.items():
        if rate > border:
            member = [member[i] if m == member[j] else m for m in member]
    groups = [[rank for rank in range(world) if member[rank] == name] for name in dict.fromkeys(member)]
    apart = all(member[i] != member[j] for (i, j), rate in slower.items() if rate < border)
    return groups if 1 < len(groups) < world and apart else []


def total(measured: Sequence[Measured], kind: str, *, source: int | None = None, target: int | None = None) -> float:
    """Median of the joint rates of a kind, of those whose every transfer has this source, or target; NaN for none."""
    fitting = [
        m.rate
        for m in measured
        if m.scenario.kind == kind
        and (source is None or all(s == source for s, _ in m.scenario.flows))
        and (target is None or all(t == target for _, t in m.scenario.flows))
    ]
    return statistics.median(fitting) if fitting else math.nan
