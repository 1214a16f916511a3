"""The links of a cluster file, each written once for many: what `gpu`, `host.nic` or `node3.gpu0` stand for.

| written | stands for | in the graph |
|---|---|---|
| `gpu`, `gpu[0-3]`, `gpu[0,2]` | all or these accelerators of every host | `node3/gpu5` |
| `gpu.NAME` | a place beside each accelerator | `node3/gpu5/nic` |
| `host.NAME` | a place in each host | `node3/nvswitch` |
| `HOST.gpu5`, `HOST.NAME`, `HOST.gpu5.NAME` | one of one host | `node3/gpu5` |
| `NAME` | one place of the whole cluster | `spine` |
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ringattn.planner.cluster import Link
from ringattn.sequence.suggest import suggest

_NAME = r"[A-Za-z_][\w-]*"
_ENDPOINT = re.compile(
    rf"(?P<first>{_NAME})(?:\[(?P<which>[\d,\s-]+)\])?(?:\.(?P<second>{_NAME}))?(?:\.(?P<third>{_NAME}))?"
)
_GPU = re.compile(r"gpu(\d+)")


class Host(NamedTuple):
    """A machine with `accelerators` of them, numbered from 0."""

    name: str
    accelerators: int

    def gpu(self, index: int) -> str:
        return f"{self.name}/gpu{index}"


class Rates(NamedTuple):
    """What all links of one entry have in common: bytes/s each way, seconds."""

    forward: float
    backward: float
    latency: float
    half_duplex: bool

    def link(self, a: str, b: str) -> Link:
        return Link(a, b, self.forward, self.backward, self.latency, self.half_duplex)


class Place(NamedTuple):
    """One of what an endpoint stands for. host: its host, None for a place of the whole cluster. gpu: its number there,
    None for a place of the host."""

    name: str
    host: str | None
    gpu: int | None


class Endpoint(NamedTuple):
    """kind: `gpu`, `host`, or `one`. beside: the NAME of `gpu.NAME` and `host.NAME`."""

    kind: str
    beside: str | None
    places: tuple[Place, ...]


def endpoint(text: object, hosts: Sequence[Host], place: str) -> Endpoint:
    """What the words of an endpoint stand for.

    Raises:
        ValueError: not an endpoint, or one of a host or accelerator that is not there.
    """
    match = _ENDPOINT.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(
            f"{place}: an end of a link is gpu, gpu[0-3], gpu.nic, host.nvswitch, spine, node0.gpu3 or node0.nic, "
            f"got {text!r}"
        )
    first, which, second, third = match["first"], match["which"], match["second"], match["third"]
    if first == "gpu":
        if third is not None:
            raise ValueError(f"{place}: write gpu.{second} for a place beside each accelerator, got {text!r}")
        tail = f"/{second}" if second else ""
        return Endpoint(
            "gpu",
            second,
            tuple(
                Place(host.gpu(index) + tail, host.name, index)
                for host in hosts
                for index in _indices(which, host, place, str(text))
            ),
        )
    if which is not None:
        raise ValueError(f"{place}: only accelerators have numbers, as in gpu[0-3], got {text!r}")
    if first == "host":
        if second is None or third is not None or _GPU.fullmatch(second):
            raise ValueError(f"{place}: write host.NAME for a place in each host, as in host.nvswitch, got {text!r}")
        return Endpoint("host", second, tuple(Place(f"{host.name}/{second}", host.name, None) for host in hosts))
    if second is None:
        if _GPU.fullmatch(first) or any(host.name == first for host in hosts):
            raise ValueError(
                f"{place}: {text!r} alone is no place: write gpu[0] for the first accelerator of every host, "
                f"{hosts[0].name}.gpu0 for that of one, {hosts[0].name}.nic for a place of that host"
            )
        return Endpoint("one", None, (Place(first, None, None),))
    return Endpoint("one", None, (_named(first, second, third, hosts, place, str(text)),))


def _named(first: str, second: str, third: str | None, hosts: Sequence[Host], place: str, text: str) -> Place:
    host = next((host for host in hosts if host.name == first), None)
    if host is None:
        names = [host.name for host in hosts]
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        raise ValueError(
            f"{place}: there is no host {first!r}, got {text!r}{suggest(first, [*names, 'gpu', 'host'])}; the hosts "
            f"are {shown}"
        )
    number = _GPU.fullmatch(second)
    if number is None:
        if third is not None:
            raise ValueError(f"{place}: write {first}.{second} for a place of that host, got {text!r}")
        return Place(f"{first}/{second}", first, None)
    _check_index(int(number[1]), host, place, text)
    return Place(host.gpu(int(number[1])) + (f"/{third}" if third else ""), first, int(number[1]))


def _indices(which: str | None, host: Host, place: str, text: str) -> Iterable[int]:
    if which is None:
        return range(host.accelerators)
    found: list[int] = []
    for part in which.replace(" ", "").split(","):
        ends = part.split("-")
        if len(ends) > 2 or not all(end.isdigit() for end in ends) or int(ends[0]) > int(ends[-1]):
            raise ValueError(f"{place}: accelerators are written gpu[0-3] or gpu[0,2], got {text!r}")
        found += range(int(ends[0]), int(ends[-1]) + 1)
    for index in found:
        _check_index(index, host, place, text)
    return dict.fromkeys(found)


def _check_index(index: int, host: Host, place: str, text: str) -> None:
    if index >= host.accelerators:
        raise ValueError(
            f"{place}: host {host.name} has gpu0 to gpu{host.accelerators - 1}, got {text!r}: change the number, or "
            "hosts.accelerators"
        )


def links_between(a: Endpoint, b: Endpoint, rates: Rates, *, across: bool) -> list[Link]:
    """All links of one entry. across: accelerators of different hosts are joined too (`scope: cluster`)."""
    kinds = {a.kind, b.kind}
    alike = a.kind == b.kind and a.beside == b.beside

    def key(place: Place) -> object:
        if "one" in kinds or across or (alike and a.kind == "host"):
            return None
        # An accelerator and what stands beside it belong together; else what is in one host.
        return (place.host, place.gpu) if kinds == {"gpu"} and not alike else place.host

    partners: dict[object, list[Place]] = {}
    for y in b.places:
        partners.setdefault(key(y), []).append(y)
    joined: dict[frozenset[str], Link] = {}
    for x in a.places:
        for y in partners.get(key(x), ()):
            if x.name != y.name:
                joined.setdefault(frozenset((x.name, y.name)), rates.link(x.name, y.name))
    return list(joined.values())


def torus_links(sizes: Sequence[object], hosts: Sequence[Host], rates: Rates, place: str) -> list[Link]:
    """Links between neighbours along each axis over all accelerators, the last axis counting fastest; `any` stands for
    the size that is left. An axis of two has one link, not one each way around.

    Raises:
        ValueError: the sizes do not multiply to the number of accelerators.
    """
    gpus = [host.gpu(index) for host in hosts for index in range(host.accelerators)]
    known = [size for size in sizes if isinstance(size, int) and not isinstance(size, bool) and size > 0]
    if len(known) + sizes.count("any") != len(sizes) or sizes.count("any") > 1 or not sizes:
        raise ValueError(
            f"{place} must be sizes above 0, one of which may be `any`, got {list(sizes)!r}: write for example "
            "[any, 4, 4]"
        )
    product = math.prod(known)
    left = len(gpus) // product
    if left * product != len(gpus) or ("any" not in sizes and left != 1):
        raise ValueError(
            f"{place}: the sizes of a torus must multiply to the number of accelerators, and "
            f"{' x '.join(map(str, sizes))} {'does not divide' if 'any' in sizes else f'= {product} is not'} "
            f"{len(gpus)}: change the sizes, or write `any` for one of them"
        )
    shape = [size if isinstance(size, int) else left for size in sizes]
    links = []
    for rank, gpu in enumerate(gpus):
        stride = len(gpus)
        for size in shape:
            stride //= size
            at = rank // stride % size
            if at + 1 < size:
                links.append(rates.link(gpu, gpus[rank + stride]))
            elif size > 2:
                links.append(rates.link(gpu, gpus[rank - at * stride]))
    return links


def dead_ends(links: Sequence[Link], hosts: Sequence[Host]) -> list[str]:
    """Places other than accelerators that a single link leads to, so that nothing passes them."""
    ends = Counter(end for link in links for end in (link.a, link.b))
    gpus = {host.gpu(index) for host in hosts for index in range(host.accelerators)}
    return [place for place, number in ends.items() if number == 1 and place not in gpus]
