"""Which hosts there are, which links join them, and which links a byte takes: values, without a network.

Every link is full duplex: its bandwidth holds in each direction by itself, and what one direction carries takes nothing
from the other. There are three topologies.

mesh
    Each pair of hosts has a link of its own, `rate` in each direction. Nothing is shared.

switch
    Each host has one port at a switch, `rate` in each direction: all that a host sends shares its port's direction out,
    all that it receives shares the direction in. Inside, the switch is not a limit.

two-level
    Groups of `inside` hosts. Inside a group each pair of hosts has a link of its own, `rate` in each direction. Each
    group has one uplink to a core, `between` in each direction: all that the hosts of the group send to other groups
    shares its direction out, all that they receive from other groups shares its direction in. A host has a port of its
    own towards the uplink, of `between` as well: one host alone can fill the uplink, and two must share it. Inside, the
    groups' switches and the core are no limit. The links inside a group carry nothing from or to other groups.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

MAX_HOSTS = 64

# Bits a second in one of each unit, decimal as networks count; a unit in B is bytes.
_UNITS = {
    f"{prefix}{unit}": factor * bits
    for prefix, factor in (("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9))
    for unit, bits in (("bit", 1), ("B", 8))
}
_RATE = re.compile(r"(?P<number>[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?) *(?P<unit>[A-Za-z]*?)(?:/s)?")


class Kind(Enum):
    """How the hosts are joined."""

    MESH = "mesh"
    SWITCH = "switch"
    TWO_LEVEL = "two-level"


@dataclass(frozen=True)
class Link:
    """A cable: `bandwidth` bytes/s from ends[0] to ends[1], and as much from ends[1] to ends[0].

    `shared_by`: the hosts whose traffic with others crosses it.
    """

    ends: tuple[str, str]
    bandwidth: float
    shared_by: tuple[str, ...]

    @property
    def name(self) -> str:
        return "-".join(self.ends)


@dataclass(frozen=True)
class Topology:
    """Hosts and the links between them. `rate` and `between`: bytes/s in one direction.

    Raises:
        ValueError: fewer than two hosts, a rate that is not positive, groups that do not fill, `inside` or `between`
            where there are no groups.
    """

    kind: Kind
    num_hosts: int
    rate: float
    inside: int | None = None
    between: float | None = None

    @classmethod
    def mesh(cls, hosts: int, *, rate: float) -> Topology:
        return cls(Kind.MESH, hosts, rate)

    @classmethod
    def switch(cls, hosts: int, *, rate: float) -> Topology:
        return cls(Kind.SWITCH, hosts, rate)

    @classmethod
    def two_level(cls, hosts: int, *, inside: int, rate: float, between: float) -> Topology:
        return cls(Kind.TWO_LEVEL, hosts, rate, inside, between)

    def __post_init__(self) -> None:
        if not 2 <= self.num_hosts <= MAX_HOSTS:
            raise ValueError(f"a test bed has 2 to {MAX_HOSTS} hosts, not {self.num_hosts}: change --hosts")
        _check_rate("rate", self.rate)
        if self.kind is not Kind.TWO_LEVEL:
            for name, value in (("inside", self.inside), ("between", self.between)):
                if value is not None:
                    raise ValueError(
                        f"--{name} is for groups of hosts, and a {self.kind.value} has none: leave it out, "
                        f"or take --topology two-level"
                    )
            return
        if self.inside is None or self.between is None:
            raise ValueError(
                "a two-level topology needs both: --inside, the hosts of a group, and --between, the rate of a "
                "group's uplink"
            )
        _check_rate("between", self.between)
        if self.inside < 1 or self.num_hosts % self.inside or self.num_hosts == self.inside:
            fitting = [n for n in range(1, self.num_hosts) if self.num_hosts % n == 0]
            raise ValueError(
                f"--inside must divide the hosts into two groups or more, and {self.inside} does not for "
                f"{self.num_hosts} hosts: take one of {', '.join(map(str, fitting))}"
            )

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(f"host{index}" for index in range(self.num_hosts))

    @property
    def switches(self) -> tuple[str, ...]:
        """Nodes that only pass frames on."""
        if self.kind is Kind.MESH:
            return ()
        if self.kind is Kind.SWITCH:
            return ("switch",)
        return (*(f"group{index}" for index in range(len(self.groups))), "core")

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Hosts that reach each other without an uplink; all of them, but for a two-level topology."""
        size = self.inside or self.num_hosts
        return tuple(self.hosts[start : start + size] for start in range(0, self.num_hosts, size))

    @property
    def links(self) -> tuple[Link, ...]:
        if self.kind is Kind.SWITCH:
            return tuple(Link((host, "switch"), self.rate, (host,)) for host in self.hosts)
        links = [
            Link((low, high), self.rate, (low, high))
            for group in self.groups
            for position, low in enumerate(group)
            for high in group[position + 1 :]
        ]
        if self.between is not None:
            for index, group in enumerate(self.groups):
                links += [Link((host, f"group{index}"), self.between, (host,)) for host in group]
                links.append(Link((f"group{index}", "core"), self.between, group))
        return tuple(links)

    def path(self, source: str, target: str) -> tuple[str, ...]:
        """The nodes that a byte passes, both ends among them; each two neighbours are the ends of one link."""
        if self.kind is Kind.SWITCH:
            return (source, "switch", target)
        from_group, to_group = (
            next(index for index, group in enumerate(self.groups) if host in group) for host in (source, target)
        )
        if from_group == to_group:
            return (source, target)
        return (source, f"group{from_group}", "core", f"group{to_group}", target)

    def describe(self) -> dict[str, Any]:
        """The cluster as plain data, for whoever predicts times on it. Bandwidths are nominal.

        hosts: name, address, group. links: name, ends, bytes/s `forward` (from the first end to the second) and
        `backward`, each by itself, and the hosts that share it. routes: for each ordered pair of hosts the links that
        its bytes cross, in order, each with the direction that they take.
        """
        names = {frozenset(link.ends): link for link in self.links}
        routes = []
        for source in self.hosts:
            for target in self.hosts:
                if source == target:
                    continue
                path = self.path(source, target)
                steps = []
                for here, there in itertools.pairwise(path):
                    link = names[frozenset((here, there))]
                    steps.append({"link": link.name, "direction": "forward" if link.ends[0] == here else "backward"})
                routes.append({"from": source, "to": target, "links": steps})
        return {
            "topology": self.kind.value,
            "hosts": [
                {"name": host, "address": address(index), "group": group}
                for group, hosts in enumerate(self.groups)
                for index, host in enumerate(self.hosts)
                if host in hosts
            ],
            "links": [
                {
                    "name": link.name,
                    "ends": list(link.ends),
                    "forward": link.bandwidth,
                    "backward": link.bandwidth,
                    "shared_by": list(link.shared_by),
                }
                for link in self.links
            ],
            "routes": routes,
        }


def address(index: int) -> str:
    """The one address of a host. torchrun gives out ranks in the order of addresses as text: all have three digits."""
    return f"10.77.0.{101 + index}"


def parse_kind(text: str) -> Kind:
    """Raises ValueError for a name that is no topology."""
    names = [kind.value for kind in Kind]
    if text not in names:
        close = difflib.get_close_matches(text, names, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"there is no topology {text!r}: {hint}There are {', '.join(names)}")
    return Kind(text)


def parse_rate(text: str) -> float:
    """Bytes/s of "200Mbit", "1.5Gbit" or "25MB", with or without "/s".

    Raises:
        ValueError: no number, an unknown unit, a rate that is not positive.
    """
    found = _RATE.fullmatch(text.strip())
    units = ", ".join(_UNITS)
    if found is None:
        raise ValueError(f"a rate is a number and a unit a second, as in 200Mbit, not {text!r}: units are {units}")
    unit = found["unit"]
    if unit not in _UNITS:
        close = [known for known in _UNITS if known.casefold() == unit.casefold()]
        close = close or difflib.get_close_matches(unit, _UNITS, n=1, cutoff=0.5)
        hint = f"did you mean {found['number']}{close[0]}? " if close else ""
        what = f"{unit!r} is no unit" if unit else "it has no unit"
        raise ValueError(
            f"a rate is a number and a unit a second, as in 200Mbit, and in {text!r} {what}: {hint}Units are {units}"
        )
    rate = float(found["number"]) * _UNITS[unit] / 8
    _check_rate("rate", rate)
    return rate


def _check_rate(name: str, rate: float) -> None:
    if not (math.isfinite(rate) and rate > 0):
        raise ValueError(f"--{name} must be more than 0, not {rate:g} bytes/s: give what a link carries, as 200Mbit")
