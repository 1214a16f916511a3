"""A described cluster: places joined by links, accelerators with their rates, and the way from rank to rank. No torch.

A cluster is a graph. Its places are accelerators and whatever joins them (a switch, a PCIe root, a NIC), its links
join two places and carry `forward` bytes/s one way and `backward` bytes/s the other at the same time. What is shared
follows from the graph: eight GPUs that reach the network through one NIC share that NIC's link, and two messages into
one GPU share its port. A message takes the way on which a megabyte arrives first.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

# By what the best way between two ranks is chosen: the time of a message of this size.
_USUAL_MESSAGE = 2**20


class Rate(NamedTuple):
    """Speed of an attention kernel on blocks whose shorter edge is `edge` tokens. flops: FLOP/s."""

    edge: int
    flops: float


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """How fast one attention kernel runs one block (query chunk x key chunk).

    forward, backward: rates at one or more block edges, ascending; between them the time per score is interpolated,
        outside the nearest counts. Counted are 4 FLOP per visible score and head dimension forward, 10 backward.
    causal: rate on a block with a diagonal over that on a full one of the same number of visible scores, at most 1.
    launch: seconds that a call takes whatever it computes.
    """

    forward: tuple[Rate, ...]
    backward: tuple[Rate, ...]
    causal: float = 1.0
    launch: float = 0.0

    def flops(self, edge: float, *, backward: bool) -> float:
        """FLOP/s on blocks whose shorter edge is `edge` tokens."""
        rates = self.backward if backward else self.forward
        if edge <= rates[0].edge:
            return rates[0].flops
        for low, high in itertools.pairwise(rates):
            if edge <= high.edge:
                # Seconds per FLOP are a fixed part and one that falls with the edge: linear in 1 / edge.
                share = (1 / edge - 1 / high.edge) / (1 / low.edge - 1 / high.edge)
                return 1 / (share / low.flops + (1 - share) / high.flops)
        return rates[-1].flops


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """What computes. memory: bytes. memory_bandwidth: bytes/s that element-wise work reaches. matmul: FLOP/s of dense
    matrix products, by dtype. attention: kernels by dtype; dtypes are named as torch names them (`bfloat16`)."""

    name: str
    memory: float
    memory_bandwidth: float
    matmul: Mapping[str, float]
    attention: Mapping[str, Kernel]


@dataclass(frozen=True, kw_only=True)
class Overhead:
    """Time of the runtime itself. step: seconds a rank spends on a step of a schedule besides its tasks. message:
    seconds a rank spends on posting a message. rendezvous: seconds from the moment both ends have posted a message
    until its first byte moves, beyond the links' own latency."""

    step: float = 0.0
    message: float = 0.0
    rendezvous: float = 0.0


class Link(NamedTuple):
    """Joins places `a` and `b`. forward: bytes/s from a to b; backward: bytes/s from b to a. latency: seconds.
    half_duplex: both directions share `forward`, as on a bus."""

    a: str
    b: str
    forward: float
    backward: float
    latency: float = 0.0
    half_duplex: bool = False


class Way(NamedTuple):
    """From one rank to another. lanes: the directions of links that a message occupies, by their number in
    `Cluster.lanes`. latency: seconds."""

    lanes: tuple[int, ...]
    latency: float


class Lane(NamedTuple):
    """One direction of a link, or both of a half-duplex one. bandwidth: bytes/s."""

    name: str
    bandwidth: float


@dataclass(frozen=True, eq=False)
class Cluster:
    """See the module's text.

    ranks: the place of each rank's accelerator, in the order in which a launcher numbers them: host by host.
    hosts: the host of each rank. links: all of them. sources: where each figure comes from, in words.
    """

    name: str
    ranks: tuple[str, ...]
    hosts: tuple[str, ...]
    accelerator: Accelerator
    links: tuple[Link, ...]
    overhead: Overhead = Overhead()
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def world(self) -> int:
        return len(self.ranks)

    @cached_property
    def lanes(self) -> tuple[Lane, ...]:
        """Every direction of every link."""
        return self._graph[0]

    def first(self, ranks: int) -> Cluster:
        """The same cluster with only its first `ranks` ranks in use."""
        if not 1 <= ranks <= self.world:
            raise ValueError(f"cluster {self.name!r} has {self.world} ranks, got {ranks}")
        return Cluster(
            self.name, self.ranks[:ranks], self.hosts[:ranks], self.accelerator, self.links, self.overhead, self.sources
        )

    def way(self, source: int, target: int) -> Way:
        """The way of a message between two ranks.

        Raises:
            ValueError: no links lead from one to the other.
        """
        found = self._ways.get((source, target))
        if found is None and self._hosts_alike:
            found = self._like_another(source, target)
        if found is None:
            self._find_ways(source)
            found = self._ways.get((source, target))
        if found is None:
            raise ValueError(
                f"cluster {self.name!r}: no links lead from {self.ranks[source]} (rank {source}) to "
                f"{self.ranks[target]} (rank {target}); every rank must reach every other"
            )
        return found

    def check(self) -> None:
        """Raise ValueError where a rank and rank 0 cannot reach each other; every link leads both ways."""
        for rank in range(1, self.world):
            self.way(0, rank)

    @cached_property
    def _ways(self) -> dict[tuple[int, int], Way]:
        return {}

    @cached_property
    def _graph(self) -> tuple[tuple[Lane, ...], dict[str, list[tuple[str, int, float]]]]:
        """The lanes, and for each place: (neighbour, lane, latency) of each way out of it."""
        lanes: list[Lane] = []
        out: dict[str, list[tuple[str, int, float]]] = {}
        for link in self.links:
            ends = (link.a, link.b, link.forward), (link.b, link.a, link.backward)
            for number, (here, there, bandwidth) in enumerate(ends):
                if number == 0 or not link.half_duplex:
                    sign = " - " if link.half_duplex else " > "
                    lanes.append(Lane(f"{here}{sign}{there}", bandwidth))
                out.setdefault(here, []).append((there, len(lanes) - 1, link.latency))
                out.setdefault(there, [])
        return tuple(lanes), out

    @cached_property
    def _hosts_alike(self) -> tuple[str, str] | None:
        """Two hosts that stand for all: where every host has the same links inside, and the same ones to places that
        belong to no host. None where hosts differ, or are too few to gain by it."""
        links: dict[str, list[str]] = {}
        for link in self.links:
            ends = [place.partition("/") for place in (link.a, link.b)]
            inside = {host for host, slash, _ in ends if slash}
            if len(inside) != 1:
                return None
            kept = ["/" + rest if slash else host for host, slash, rest in ends]
            links.setdefault(inside.pop(), []).append(repr((kept, *link[2:])))
        hosts = [*links]
        if len(hosts) < 3 or not set(self.hosts) <= set(hosts):
            return None
        first = sorted(links[hosts[0]])
        return (hosts[0], hosts[1]) if all(sorted(found) == first for found in links.values()) else None

    @cached_property
    def _lane_between(self) -> dict[tuple[str, str], int]:
        """The lane between two places that a link joins; the fastest where there are several."""
        lanes, out = self._graph
        found: dict[tuple[str, str], int] = {}
        for here, ways in out.items():
            for there, lane, _ in ways:
                known = found.get((here, there))
                if known is None or lanes[lane].bandwidth > lanes[known].bandwidth:
                    found[here, there] = lane
        return found

    @cached_property
    def _places_on_way(self) -> dict[tuple[str, str], tuple[tuple[str, ...], float]]:
        return {}

    def _like_another(self, source: int, target: int) -> Way:
        """The way that leads from one host to itself or to a second, moved to the hosts at hand."""
        assert self._hosts_alike is not None
        one, other = self._hosts_alike
        here, start = self.ranks[source].split("/", 1)
        there, stop = self.ranks[target].split("/", 1)
        key = f"{one}/{start}", f"{one if here == there else other}/{stop}"
        found = self._like_ways.get(key)
        if found is None:
            came = self._like_reach.get(key[0])
            if came is None:
                came = self._like_reach[key[0]] = self._reach(key[0])
            steps, _, latency = _trace(came, *key)
            found = self._like_ways[key] = (steps, latency)
        hosts = {one: here, other: there}
        places = [
            f"{hosts[host]}/{rest}" if slash else host for host, slash, rest in (p.partition("/") for p in found[0])
        ]
        lanes = tuple(self._lane_between[pair] for pair in itertools.pairwise(places))
        way = self._ways[source, target] = Way(lanes, found[1])
        return way

    @cached_property
    def _like_reach(self) -> dict[str, dict[str, tuple[str, int, float]]]:
        return {}

    @cached_property
    def _like_ways(self) -> dict[tuple[str, str], tuple[list[str], float]]:
        return {}

    def _find_ways(self, source: int) -> None:
        """The ways from one rank to all others."""
        start = self.ranks[source]
        came = self._reach(start)
        for target, place in enumerate(self.ranks):
            if target == source or place not in came:
                continue
            self._ways[source, target] = Way(*_trace(came, start, place)[1:])

    def _reach(self, start: str) -> dict[str, tuple[str, int, float]]:
        """For every place that can be reached from `start`: (the place before it, lane, latency).

        Dijkstra's algorithm; of equal ways the one with fewer links, then the first described.
        """
        lanes, out = self._graph
        # Messages pass through switches and NICs, and through other accelerators only where these forward (a torus).
        best: dict[str, tuple[float, int]] = {start: (0.0, 0)}
        came: dict[str, tuple[str, int, float]] = {}
        queue: list[tuple[float, int, int, str]] = [(0.0, 0, 0, start)]
        order = 0
        while queue:
            cost, hops, _, place = heapq.heappop(queue)
            if (cost, hops) > best.get(place, (math.inf, 0)):
                continue
            for there, lane, latency in out.get(place, ()):
                reached = (cost + latency + _USUAL_MESSAGE / lanes[lane].bandwidth, hops + 1)
                if reached < best.get(there, (math.inf, 0)):
                    best[there], came[there] = reached, (place, lane, latency)
                    order += 1
                    heapq.heappush(queue, (*reached, order, there))
        return came


def _trace(
    came: Mapping[str, tuple[str, int, float]], start: str, stop: str
) -> tuple[list[str], tuple[int, ...], float]:
    """The places, the lanes and the latency of the way that `came` holds backwards."""
    places, taken, latency = [stop], [], 0.0
    while places[-1] != start:
        before, lane, part = came[places[-1]]
        places.append(before)
        taken.append(lane)
        latency += part
    return places[::-1], tuple(reversed(taken)), latency
