"""What a cluster file may say, in plain data, into a checked `Cluster`. docs/clusters.md describes the format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ringattn.planner.cluster import Accelerator, Cluster, Kernel, Link, Overhead, Rate
from ringattn.planner.cluster_links import Host, Rates, dead_ends, endpoint, links_between, torus_links
from ringattn.planner.units import BANDWIDTH, FLOPS, FRACTION, SIZE, TIME, Quantity
from ringattn.sequence.suggest import suggest

# Bytes/s against the direction of a one-way link: so little that no way ever takes it.
AGAINST = 1e-6

_KEYS = {
    "": ("name", "about", "hosts", "accelerator", "links", "overhead", "sources"),
    "hosts": ("name", "count", "accelerators"),
    "accelerator": ("name", "memory", "memory_bandwidth", "matmul", "attention"),
    "kernel": ("forward", "backward", "causal", "launch"),
    "rate": ("edge", "rate"),
    "link": ("between", "torus", "bandwidth", "back", "efficiency", "latency", "half_duplex", "one_way", "scope"),
    "overhead": ("step", "message", "rendezvous"),
}


def build(found: Mapping[str, Any], *, nodes: int | None = None) -> Cluster:
    """The cluster of a description in plain data. ValueError as from `read_cluster`."""
    _check_keys(found, "", "", required=("name", "hosts", "accelerator", "links"))
    hosts = _hosts(found["hosts"], nodes)
    links = _links(found["links"], hosts)
    overhead = _mapping(found.get("overhead", {}), "overhead", "overhead")
    cluster = Cluster(
        name=str(found["name"]),
        ranks=tuple(host.gpu(index) for host in hosts for index in range(host.accelerators)),
        hosts=tuple(host.name for host in hosts for _ in range(host.accelerators)),
        accelerator=_accelerator(found["accelerator"]),
        links=tuple(links),
        overhead=Overhead(**{name: _time(value, f"overhead.{name}") for name, value in overhead.items()}),
        sources={str(key): str(value) for key, value in _mapping(found.get("sources", {}), "sources").items()},
    )
    _check_ways(cluster, hosts)
    return cluster


def _hosts(found: Any, nodes: int | None) -> list[Host]:
    if nodes is not None and nodes < 1:
        raise ValueError(f"the number of nodes must be at least 1, got {nodes}")
    if isinstance(found, Mapping):
        _check_keys(found, "hosts", "hosts", required=("name", "accelerators"))
        number = nodes or _count(found.get("count", 1), "hosts.count")
        each = _count(found["accelerators"], "hosts.accelerators")
        return [Host(f"{found['name']}{index}", each) for index in range(number)]
    if not isinstance(found, list) or not found:
        raise ValueError(
            f"hosts must be a mapping {{name: node, count: 2, accelerators: 8}} or a list of hosts, got {found!r}"
        )
    hosts = []
    for index, entry in enumerate(found):
        place = f"hosts[{index}]"
        _check_keys(_mapping(entry, place), "hosts", place, required=("name", "accelerators"))
        if "count" in entry:
            raise ValueError(f"{place}.count: hosts of a list are single ones: leave count out")
        hosts.append(Host(str(entry["name"]), _count(entry["accelerators"], f"{place}.accelerators")))
    twice = [host.name for index, host in enumerate(hosts) if host.name in [other.name for other in hosts[:index]]]
    if twice:
        raise ValueError(f"hosts must have names of their own, and {twice[0]!r} is there twice: rename one")
    if nodes is not None and nodes > len(hosts):
        raise ValueError(
            f"this cluster is {len(hosts)} hosts, described one by one, and cannot have {nodes}: ask for at most "
            f"{len(hosts)} nodes"
        )
    return hosts[:nodes]


def _links(found: Any, hosts: Sequence[Host]) -> list[Link]:
    if not isinstance(found, list):
        raise ValueError(f"links must be a list of links, got {found!r}: docs/clusters.md shows one")
    links: list[Link] = []
    for index, entry in enumerate(found):
        place = f"links[{index}]"
        _check_keys(_mapping(entry, place), "link", place, required=("bandwidth",))
        if ("between" in entry) == ("torus" in entry):
            raise ValueError(f"{place} must have either between: [A, B] or torus: [4, 4, 4]")
        rates, across = _rates(entry, place), _scope(entry, place)
        if "torus" in entry:
            sizes = entry["torus"] if isinstance(entry["torus"], list) else [entry["torus"]]
            links += torus_links(sizes, hosts, rates, f"{place}.torus")
            continue
        ends = entry["between"]
        if not isinstance(ends, list) or len(ends) != 2:
            raise ValueError(f"{place}.between must be two places, as in [gpu, host.nvswitch], got {ends!r}")
        a, b = (endpoint(end, hosts, f"{place}.between") for end in ends)
        links += links_between(a, b, rates, across=across)
    return links


def _rates(entry: Mapping[str, Any], place: str) -> Rates:
    share = _positive(FRACTION, entry.get("efficiency", 1), f"{place}.efficiency")
    if share > 1:
        raise ValueError(f"{place}.efficiency is a fraction of the bandwidth, at most 1, got {entry['efficiency']!r}")
    forward = share * _positive(BANDWIDTH, entry["bandwidth"], f"{place}.bandwidth")
    flags = [key for key in ("back", "half_duplex", "one_way") if entry.get(key) not in (None, False)]
    if len(flags) > 1:
        raise ValueError(
            f"{place} has {' and '.join(flags)}, which exclude each other: half_duplex shares `bandwidth` between "
            "both directions, one_way has no other direction, back gives the other direction a bandwidth of its own"
        )
    for flag in ("half_duplex", "one_way"):
        if not isinstance(entry.get(flag, False), bool):
            raise ValueError(f"{place}.{flag} must be true or false, got {entry[flag]!r}")
    back = share * _positive(BANDWIDTH, entry["back"], f"{place}.back") if "back" in flags else forward
    latency = _time(entry.get("latency", 0), f"{place}.latency")
    return Rates(forward, AGAINST if "one_way" in flags else back, latency, "half_duplex" in flags)


def _scope(entry: Mapping[str, Any], place: str) -> bool:
    scope = entry.get("scope", "host")
    if scope not in ("host", "cluster"):
        raise ValueError(f"{place}.scope must be host or cluster, got {scope!r}{suggest(scope, ['host', 'cluster'])}")
    return bool(scope == "cluster")


def _accelerator(found: Any) -> Accelerator:
    place = "accelerator"
    _check_keys(_mapping(found, place), place, place, required=_KEYS[place])
    kernels = _mapping(found["attention"], f"{place}.attention")
    if not kernels:
        raise ValueError(f"{place}.attention must have a kernel for at least one dtype, as in bfloat16: {{...}}")
    return Accelerator(
        name=str(found["name"]),
        memory=_positive(SIZE, found["memory"], f"{place}.memory"),
        memory_bandwidth=_positive(BANDWIDTH, found["memory_bandwidth"], f"{place}.memory_bandwidth"),
        matmul={
            str(dtype): _positive(FLOPS, value, f"{place}.matmul.{dtype}")
            for dtype, value in _mapping(found["matmul"], f"{place}.matmul").items()
        },
        attention={str(dtype): _kernel(value, f"{place}.attention.{dtype}") for dtype, value in kernels.items()},
    )


def _kernel(found: Any, place: str) -> Kernel:
    _check_keys(_mapping(found, place), "kernel", place, required=("forward", "backward"))
    causal = _positive(FRACTION, found.get("causal", 1), f"{place}.causal")
    if causal > 1:
        raise ValueError(f"{place}.causal is a fraction of the full rate, at most 1, got {found['causal']!r}")
    return Kernel(
        forward=_block_rates(found["forward"], f"{place}.forward"),
        backward=_block_rates(found["backward"], f"{place}.backward"),
        causal=causal,
        launch=_time(found.get("launch", 0), f"{place}.launch"),
    )


def _block_rates(found: Any, place: str) -> tuple[Rate, ...]:
    if not isinstance(found, list):
        return (Rate(1, _positive(FLOPS, found, place)),)
    rates = []
    for index, entry in enumerate(found):
        where = f"{place}[{index}]"
        _check_keys(_mapping(entry, where), "rate", where, required=("edge", "rate"))
        edge = _count(entry["edge"], f"{where}.edge")
        rates.append(Rate(edge, _positive(FLOPS, entry["rate"], f"{where}.rate")))
    edges = [rate.edge for rate in rates]
    if not edges or edges != sorted(set(edges)):
        raise ValueError(f"{place} must be rates at ascending block edges, got edges {edges}: sort them, each once")
    return tuple(rates)


def _check_ways(cluster: Cluster, hosts: Sequence[Host]) -> None:
    """Every rank is reached, and no place is written that nothing passes: most often its name is misspelled."""
    ends = dead_ends(cluster.links, hosts)
    places = {end for link in cluster.links for end in (link.a, link.b)} - set(ends)
    hint = "".join(f"; only one link leads to {end}{suggest(end, sorted(places))}" for end in ends[:1])
    try:
        cluster.check()
    except ValueError as error:
        raise ValueError(f"{error}: add the missing link{hint}") from error
    if ends and len(hosts) > 1 and all(host.accelerators > 1 for host in hosts):
        raise ValueError(f"a place joins two links or more, and{hint[1:]}: correct the name, or add its other link")


def _mapping(found: Any, place: str, kind: str | None = None) -> Mapping[str, Any]:
    if not isinstance(found, Mapping):
        raise ValueError(f"{place} must have keys and values, got {found!r}: docs/clusters.md shows an example")
    if kind is not None:
        _check_keys(found, kind, place)
    return found


def _check_keys(found: Any, kind: str, place: str, *, required: Sequence[str] = ()) -> None:
    known, prefix = _KEYS[kind], f"{place}." if place else ""
    for key in _mapping(found, place or "the file"):
        if key not in known:
            raise ValueError(
                f"there is no key {prefix}{key}{suggest(str(key), known)}; the keys here are {', '.join(known)}"
            )
    missing = [key for key in required if found.get(key) is None]
    if missing:
        raise ValueError(f"{prefix}{missing[0]} is missing: add it; docs/clusters.md shows an example")


def _count(value: Any, place: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{place} must be a whole number of at least 1, got {value!r}")
    return value


def _positive(quantity: Quantity, value: Any, place: str) -> float:
    number = quantity.read(value, place)
    if number <= 0:
        raise ValueError(f"{place} must be above 0, got {value!r}: write for example {quantity.example}")
    return number


def _time(value: Any, place: str) -> float:
    number = TIME.read(value, place)
    if number < 0:
        raise ValueError(f"{place} must not be negative, got {value!r}: write for example {TIME.example}")
    return number
