"""How one parcel reaches each member of a group of ranks.

A route gives *chains*: a chain is a run of hops, each from where the last one ended, the first from a rank that the
parcel has reached already. Results that go home along a route are summed down each chain, and go home from its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

from ringattn.sequence.suggest import suggest


class Hop(NamedTuple):
    """From rank `source` to rank `target`, setting out in `step` and there when step `due` ends."""

    step: int
    due: int
    source: int
    target: int


Chain = tuple[Hop, ...]

_SPLIT_MEMBERS = 64


class Route(Protocol):
    """A route over a group of ranks, any size."""

    def lanes(self, size: int) -> int:
        """Into how many slices a parcel is cut that travel by different chains."""

    def chains(self, members: Sequence[int], source: int, lane: int) -> list[Chain]:
        """The chains by which slice `lane` of what `members[source]` owns reaches every other member."""


@dataclass(frozen=True)
class Direct:
    """To everyone at once, straight from the owner (an all-gather)."""

    def lanes(self, size: int) -> int:
        return 1

    def chains(self, members: Sequence[int], source: int, lane: int) -> list[Chain]:
        size = len(members)
        return [(Hop(0, 0, members[source], members[(source + distance) % size]),) for distance in range(1, size)]


@dataclass(frozen=True)
class OneWay:
    """Hop by hop around the ring (Liu et al., Ring Attention, arXiv 2310.01889)."""

    def lanes(self, size: int) -> int:
        return 1

    def chains(self, members: Sequence[int], source: int, lane: int) -> list[Chain]:
        return [_walk(members, source, len(members) - 1, direction=1)] if len(members) > 1 else []


@dataclass(frozen=True)
class OneWayAndBack:
    """Hop by hop around the ring as far as the last but one; the last, the owner's neighbour on the other side, has it
    straight from the owner, any time until the rest is round.

    Results that go straight home from that neighbour take the link on which parcels travel: with the last parcel kept
    off that link it carries no more than before.

    apart: it is used one step after the rest is round, by itself. A rank then computes as much in each step as on the
    way round, and a parcel that is late holds up the last step alone. Otherwise it is used together with what comes
    last by the ring: a step less, and two results to send in the end.
    """

    apart: bool = False

    def lanes(self, size: int) -> int:
        return 1

    def chains(self, members: Sequence[int], source: int, lane: int) -> list[Chain]:
        size = len(members)
        if size <= 2:
            return OneWay().chains(members, source, lane)
        back = Hop(0, size - 2 if self.apart else size - 3, members[source], members[source - 1])
        return [_walk(members, source, size - 2, direction=1), (back,)]


@dataclass(frozen=True)
class BothWays:
    """Half of the members clockwise and half counter-clockwise, in half the steps.

    With an even number of members one is as far by either way: half of the parcel reaches it by each. Past
    `_SPLIT_MEMBERS` members it goes one way whole: half a hop more of so many is not worth twice as many slices.
    """

    def lanes(self, size: int) -> int:
        return 2 if size % 2 == 0 and size <= _SPLIT_MEMBERS else 1

    def chains(self, members: Sequence[int], source: int, lane: int) -> list[Chain]:
        others = len(members) - 1
        ahead = others // 2 if lane else others - others // 2
        walks = [
            _walk(members, source, ahead, direction=1),
            _walk(members, source, others - ahead, direction=-1),
        ]
        return [walk for walk in walks if walk]


@dataclass(frozen=True)
class TwoLevels:
    """An inner ring in each group of `inner` neighbours, an outer ring over the groups (double ring: LoongTrain,
    arXiv 2406.18485; BurstAttention, arXiv 2403.09347). An outer hop has the time of a whole inner round."""

    inner: int

    def lanes(self, size: int) -> int:
        return 1

    def chains(self, members: Sequence[int], source: int, lane: int) -> list[Chain]:
        inner, size = self.inner, len(members)
        if size % inner:
            raise ValueError(f"the inner ring must divide the group: {size} ranks are not a multiple of {inner}")
        outer = size // inner
        home, seat = divmod(source, inner)

        def at(group: int, place: int) -> int:
            return members[(group % outer) * inner + place % inner]

        chains = []
        for lap in range(outer):
            start = lap * inner
            hops = []
            if lap:
                hops.append(Hop(start - inner, start - 1, at(home + lap - 1, seat), at(home + lap, seat)))
            hops += [
                Hop(start + t, start + t, at(home + lap, seat + t), at(home + lap, seat + t + 1))
                for t in range(inner - 1)
            ]
            if hops:
                chains.append(tuple(hops))
        return chains


@dataclass(frozen=True)
class ManyRings:
    """Slices over rings that share no link (TASP, arXiv 2509.26541), so that all links of a full mesh carry some."""

    rings: int

    def lanes(self, size: int) -> int:
        return min(self.rings, len(disjoint_rings(size)))

    def chains(self, members: Sequence[int], source: int, lane: int) -> list[Chain]:
        if len(members) == 1:
            return []
        order = disjoint_rings(len(members))[lane]
        around = [members[place] for place in order]
        return [_walk(around, order.index(source), len(members) - 1, direction=1)]


def make_route(name: str, inner: int | None = None) -> Route:
    """The route called `one`, `back`, `apart`, `both`, `direct` or `levels`, which needs `inner`. ValueError for any
    other."""
    if name == "levels":
        if inner is None:
            raise ValueError("route 'levels' needs inner=, the number of neighbours in an inner ring")
        return TwoLevels(inner)
    simple: dict[str, Route] = {
        "one": OneWay(),
        "back": OneWayAndBack(),
        "apart": OneWayAndBack(apart=True),
        "both": BothWays(),
        "direct": Direct(),
    }
    if name not in simple:
        known = [*simple, "levels"]
        raise ValueError(f"unknown route {name!r}{suggest(name, known)}; there are {', '.join(known)}")
    return simple[name]


@lru_cache(maxsize=64)
def disjoint_rings(size: int) -> tuple[tuple[int, ...], ...]:
    """Directed Hamiltonian cycles of `size` ranks that share no directed edge: size - 1 where size is odd, else
    size - 2 (1 of 2 ranks). Walecki's construction: a hub, and a zigzag over the others that is turned round; an even
    size puts the last rank into the middle edge of each, which no two turns share."""
    if size <= 2:
        return (tuple(range(size)),)
    circle = (size - 1) // 2 * 2
    half = circle // 2
    zigzag = [0]
    for distance in range(1, half + 1):
        zigzag += [distance, -distance]
    zigzag = zigzag[:circle]
    rings = []
    for turn in range(half):
        path = [(place + turn) % circle for place in zigzag]
        if size % 2 == 0:
            path.insert(half, size - 1)
        cycle = (circle, *path)
        rings += [cycle, cycle[::-1]]
    return tuple(rings)


def _walk(members: Sequence[int], source: int, hops: int, *, direction: int) -> Chain:
    size = len(members)
    return tuple(
        Hop(t, t, members[(source + direction * t) % size], members[(source + direction * (t + 1)) % size])
        for t in range(hops)
    )
