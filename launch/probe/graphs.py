"""From timed transfers to the graph that explains them best. No torch.

Each shape that clusters usually have is fitted to the measurements; what it then predicts for every one of them is
compared with what was measured, and the shape that is off the least is taken. A shape with more kinds of links must be
better by a little to be preferred.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ringattn.launch.probe.predict import seconds
from ringattn.launch.probe.traffic import Flow, Measured, find_groups, pair_rates, total

from ringattn.planner.cluster import Cluster
from ringattn.planner.cluster_description import build
from ringattn.planner.cluster_links import Host

Links = list[dict[str, Any]]

# By so much each place in the list of shapes must explain the measurements better than one before it.
_SIMPLER = 0.02

# Rates that differ by less are measured once more, not different: one entry describes all of such links.
_ALIKE = 1.2

_NO_ACCELERATOR = {
    "name": "any",
    "memory": 1,
    "memory_bandwidth": 1,
    "matmul": {},
    "attention": {"any": {"forward": 1, "backward": 1}},
}


@dataclass(frozen=True)
class Found:
    """shape: in words. links: as a cluster file writes them, rates in bytes/s. predicted: seconds of each measured
    scenario, in its order. error: by how much the shape is off, as a mean of |log| over the kinds of scenarios."""

    shape: str
    links: Links
    predicted: tuple[float, ...]
    error: float


class Ranks:
    """Where each rank is, as a cluster file writes it: `node0.gpu1`."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self.hosts = list(hosts)
        self.places = [f"{host.name}.gpu{index}" for host in hosts for index in range(host.accelerators)]
        starts = [sum(host.accelerators for host in hosts[:index]) for index in range(len(hosts))]
        self.by_host = [list(range(start, start + host.accelerators)) for start, host in zip(starts, hosts)]

    @property
    def world(self) -> int:
        return len(self.places)

    def cluster(self, links: Links) -> Cluster:
        hosts = [host._asdict() for host in self.hosts]
        return build({"name": "measured", "hosts": hosts, "accelerator": _NO_ACCELERATOR, "links": links})


def explain(measured: Sequence[Measured], ranks: Ranks, latency: float = 0.0) -> list[Found]:
    """Every shape that fits at all, the best first. latency: seconds between two ranks."""
    found = []
    for order, (shape, fit) in enumerate(_shapes(measured, ranks).items()):
        links = fit()
        if not links or not all(math.isfinite(link["bandwidth"] + link.get("back", 0)) for link in links):
            continue
        for link in links:
            # What a message takes at its two ends; nothing was told apart of what lies between.
            link["latency"] = latency / 2 * sum(end == "gpu" or end in ranks.places for end in link["between"])
        cluster = ranks.cluster(links)
        predicted = tuple(seconds(cluster, m.scenario.flows, m.size) for m in measured)
        error = _error(measured, predicted)
        found.append((error + _SIMPLER * order, Found(shape, links, predicted, error)))
    return [each for _, each in sorted(found, key=lambda pair: pair[0])]


def _error(measured: Sequence[Measured], predicted: Sequence[float]) -> float:
    """Each kind of scenario counts the same, however many there are of it."""
    off = defaultdict(list)
    for each, expected in zip(measured, predicted):
        off[each.scenario.kind].append(abs(math.log(expected / each.seconds)))
    return statistics.fmean(statistics.fmean(values) for values in off.values())


def _shapes(measured: Sequence[Measured], ranks: Ranks) -> dict[str, Callable[[], Links]]:
    """The simplest first."""
    rates = _all_pairs(pair_rates(measured), ranks)
    shapes: dict[str, Callable[[], Links]] = {
        "a link for each pair": lambda: _mesh(rates, ranks, range(ranks.world)),
        "a link for each pair, both directions sharing it": lambda: _shared_mesh(measured, rates, ranks),
    }
    if ranks.world > 2:
        shapes["a port for each rank at one switch"] = lambda: _ports(measured, rates, ranks)
        shapes["a port for each rank, both directions sharing it"] = lambda: _shared_ports(measured, rates, ranks)
    shapes["one medium that all share"] = lambda: _medium(measured, rates, ranks)
    groups = find_groups(pair_rates(measured), ranks.world)
    if groups:
        shapes["groups: a link for each pair inside, a shared uplink"] = lambda: _groups(measured, rates, ranks, groups)
        shapes["groups: a port for each rank inside, a shared uplink"] = lambda: _switches(
            measured, rates, ranks, groups
        )
    if len(ranks.hosts) > 1 and len(ranks.hosts) < ranks.world:
        shapes["hosts: one medium inside each, a port for each host"] = lambda: _media(measured, rates, ranks)
    return shapes


def _all_pairs(rates: Mapping[Flow, float], ranks: Ranks) -> dict[Flow, float]:
    """Rates of all pairs; one that was not timed has the median of those that lie as it does, in or between hosts."""
    host = {rank: index for index, members in enumerate(ranks.by_host) for rank in members}
    alike: dict[bool, list[float]] = defaultdict(list)
    for (i, j), rate in rates.items():
        alike[host[i] == host[j]].append(rate)
    middle = {key: statistics.median(values) for key, values in alike.items()}
    every = [(i, j) for i in range(ranks.world) for j in range(ranks.world) if i != j]
    return {(i, j): rates.get((i, j), middle.get(host[i] == host[j], math.nan)) for i, j in every}


def _link(a: str, b: str, forward: float, backward: float | None = None, **more: Any) -> dict[str, Any]:
    found = {"between": [a, b], "bandwidth": forward, **more}
    return found if backward is None or backward == forward else {**found, "back": backward}


def _alike(values: Sequence[float]) -> float | None:
    """The median where one value stands for all."""
    return statistics.median(values) if max(values) <= min(values) * _ALIKE else None


def _mesh(rates: Mapping[Flow, float], ranks: Ranks, members: Sequence[int]) -> Links:
    pairs = [(i, j) for i in members for j in members if i < j]
    same = _alike([rates[flow] for i, j in pairs for flow in ((i, j), (j, i))])
    if same is not None and len(members) == ranks.world > 2:
        return [_link("gpu", "gpu", same, scope="cluster")]
    places = ranks.places
    return [_link(places[i], places[j], same or rates[i, j], same or rates[j, i]) for i, j in pairs]


def _shared_mesh(measured: Sequence[Measured], rates: Mapping[Flow, float], ranks: Ranks) -> Links:
    """What both directions of a pair carry together says how much more than one direction its link has."""
    gains = [
        m.rate / statistics.fmean((rates[m.scenario.flows[0]], rates[m.scenario.flows[1]]))
        for m in measured
        if m.scenario.kind == "both ways"
    ]
    gain = statistics.median(gains) if gains else 1.0
    places = ranks.places
    return [
        # Half of what is gained: one direction alone and both together are then off by the same factor.
        _link(places[i], places[j], math.sqrt(gain) * (rates[i, j] + rates[j, i]) / 2, half_duplex=True)
        for i in range(ranks.world)
        for j in range(i + 1, ranks.world)
    ]


def _port_rates(measured: Sequence[Measured], rates: Mapping[Flow, float], world: int) -> list[tuple[float, float]]:
    """(out, in) of each rank: what it carries to or from all others at once, and no less than for one pair."""
    found = []
    for rank in range(world):
        out = statistics.median(rate for (i, _), rate in rates.items() if i == rank)
        into = statistics.median(rate for (_, j), rate in rates.items() if j == rank)
        joint = total(measured, "fan-out", source=rank), total(measured, "fan-in", target=rank)
        # The order makes NaN, for none, the smaller one.
        found.append((max(out, joint[0]), max(into, joint[1])))
    same = _alike([rate for both in found for rate in both])
    return [(same, same)] * world if same is not None else found


def _ports(measured: Sequence[Measured], rates: Mapping[Flow, float], ranks: Ranks) -> Links:
    found = _port_rates(measured, rates, ranks.world)
    if len(set(found)) == 1 and found[0][0] == found[0][1]:
        return [_link("gpu", "switch", found[0][0])]
    return [_link(place, "switch", out, into) for place, (out, into) in zip(ranks.places, found)]


def _shared_ports(measured: Sequence[Measured], rates: Mapping[Flow, float], ranks: Ranks) -> Links:
    """A port carries so much in all: what its rank sends, receives, or exchanges, whatever was the least."""
    found = []
    for rank, both in enumerate(_port_rates(measured, rates, ranks.world)):
        exchanged = [m.rate for m in measured if m.scenario.kind == "both ways" and rank in m.scenario.flows[0]]
        found.append(statistics.median([*both, *exchanged]))
    same = _alike(found)
    if same is not None:
        return [_link("gpu", "switch", same, half_duplex=True)]
    return [_link(place, "switch", rate, half_duplex=True) for place, rate in zip(ranks.places, found)]


def _medium(measured: Sequence[Measured], rates: Mapping[Flow, float], ranks: Ranks) -> Links:
    """Every transfer crosses the link from `sent` to `received`; what all ranks carry at once is what it has."""
    one = statistics.median(rates.values())
    return [
        _link("gpu", "sent", one, one_way=True),
        _link("sent", "received", total(measured, "shift" if ranks.world > 2 else "both ways"), one_way=True),
        _link("received", "gpu", one, one_way=True),
    ]


def _uplinks(
    measured: Sequence[Measured], rates: Mapping[Flow, float], groups: Sequence[Sequence[int]]
) -> list[tuple[float, float]]:
    """(out, in) of each group: what all its ranks carry to or from another at once, and no less than for one pair."""
    found = []
    for group in groups:
        inside = set(group)
        out = [rate for (i, j), rate in rates.items() if i in inside and j not in inside]
        into = [rate for (i, j), rate in rates.items() if j in inside and i not in inside]
        joint = [m for m in measured if m.scenario.kind == "groups"]
        outs = [m.rate for m in joint if m.scenario.flows[0][0] in inside]
        ins = [m.rate for m in joint if m.scenario.flows[0][1] in inside]
        # Two TCP connections through one bottleneck may together get less than one alone: it carries what one got.
        pair = statistics.median(out), statistics.median(into)
        found.append(
            (max(pair[0], statistics.median(outs or pair[:1])), max(pair[1], statistics.median(ins or pair[1:])))
        )
    same = _alike([rate for both in found for rate in both])
    return [(same, same)] * len(groups) if same is not None else found


def _groups(
    measured: Sequence[Measured], rates: Mapping[Flow, float], ranks: Ranks, groups: Sequence[Sequence[int]]
) -> Links:
    """Pairs of a group have links of their own; to other groups a rank has a port at the group's uplink."""
    links: Links = []
    member = {rank: index for index, group in enumerate(groups) for rank in group}
    outside = {(i, j): rate for (i, j), rate in rates.items() if member[i] != member[j]}
    for index, (group, (out, into)) in enumerate(zip(groups, _uplinks(measured, rates, groups))):
        links += _mesh(rates, ranks, group)
        for rank in group:
            leaving = statistics.median(rate for (i, _), rate in outside.items() if i == rank)
            coming = statistics.median(rate for (_, j), rate in outside.items() if j == rank)
            same = _alike([leaving, coming])
            links.append(_link(ranks.places[rank], f"group{index}", same or leaving, same or coming))
        links.append(_link(f"group{index}", "core", out, into))
    return links


def _switches(
    measured: Sequence[Measured], rates: Mapping[Flow, float], ranks: Ranks, groups: Sequence[Sequence[int]]
) -> Links:
    """Ranks of a group have ports at a switch, which has an uplink."""
    links: Links = []
    for index, (group, (out, into)) in enumerate(zip(groups, _uplinks(measured, rates, groups))):
        inside = [rate for (i, j), rate in rates.items() if i in group and j in group]
        near = statistics.median(inside) if inside else max(out, into)
        links += [_link(ranks.places[rank], f"group{index}", near) for rank in group]
        links.append(_link(f"group{index}", "core", out, into))
    return links


def _media(measured: Sequence[Measured], rates: Mapping[Flow, float], ranks: Ranks) -> Links:
    """Inside a host all transfers cross one link, as over its loopback; to other hosts they share the host's port."""
    links: Links = []
    ports = _uplinks(measured, rates, ranks.by_host)
    for host, group, (out, into) in zip(ranks.hosts, ranks.by_host, ports):
        inside = [rate for (i, j), rate in rates.items() if i in group and j in group]
        near = statistics.median(inside) if inside else max(out, into)
        sent, received = f"{host.name}.sent", f"{host.name}.received"
        for rank in group:
            links.append(_link(ranks.places[rank], sent, near, one_way=True))
            links.append(_link(received, ranks.places[rank], near, one_way=True))
        links.append(_link(sent, received, near, one_way=True))
        links.append(_link(sent, "network", out, one_way=True))
        links.append(_link("network", received, into, one_way=True))
    return links
