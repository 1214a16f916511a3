"""Clusters as YAML files: read one, write one, list those that are shipped, find figures without a source."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from ringattn.planner.cluster import Accelerator, Cluster, Link, Rate
from ringattn.planner.cluster_description import AGAINST, build
from ringattn.planner.units import BANDWIDTH, FLOPS, SIZE, TIME
from ringattn.sequence.suggest import suggest

_RANK = re.compile(r"(?P<host>[A-Za-z_][\w-]*)/gpu(?P<index>\d+)")


def folder() -> Path:
    """Where the shipped cluster files are."""
    return Path(str(importlib.resources.files("ringattn.conf"))) / "cluster"


def cluster_names() -> list[str]:
    """The shipped clusters, by the names that `read_cluster` takes."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


def read_cluster(name_or_path: str | Path, *, nodes: int | None = None) -> Cluster:
    """The cluster that a file describes: a shipped one by name, or any by path. Every rank reaches every other.

    nodes: the number of hosts, instead of the file's; of hosts listed one by one, only the first so many.

    Raises:
        ValueError: no such file, or one that breaks a rule of the format; one fault, with what to do.
    """
    path = find(name_or_path)
    try:
        return build(description(path), nodes=nodes)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def find(name_or_path: str | Path) -> Path:
    """The file of a name or path. ValueError where there is none."""
    names, text = cluster_names(), str(name_or_path)
    if text in names:
        return folder() / f"{text}.yaml"
    path = Path(name_or_path)
    if path.is_file():
        return path
    what = "file" if path.suffix or len(path.parts) > 1 else "cluster"
    raise ValueError(
        f"there is no {what} {text!r}{suggest(path.stem, names)}: name one of {', '.join(names)}, or the path of a "
        "cluster file"
    )


def description(path: Path) -> dict[str, Any]:
    """What a file says, as plain data. ValueError where it is no YAML mapping."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" in line {where.line + 1}" if where is not None else ""
        raise ValueError(
            f"not readable as YAML{line}: {getattr(error, 'problem', None) or error}; correct it"
        ) from error
    if found is None:
        raise ValueError("the file is empty: docs/clusters.md shows a full example")
    if not isinstance(found, dict):
        raise ValueError(f"a cluster file has keys and values, got {type(found).__name__}: docs/clusters.md shows one")
    return found


def write_cluster(cluster: Cluster | Mapping[str, Any], path: str | Path) -> None:
    """Write a cluster, or a description in the format of docs/clusters.md, after it was checked.

    Of a cluster every link is written by itself; `read_cluster` gives the same cluster back.

    Raises:
        ValueError: a description that breaks a rule of the format, a cluster whose ranks are not named `node0/gpu0`.
    """
    plain = describe(cluster) if isinstance(cluster, Cluster) else dict(cluster)
    build(plain)
    text = yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=114)
    Path(path).write_text(text, encoding="utf-8")


def describe(cluster: Cluster) -> dict[str, Any]:
    """The description of a cluster: its hosts and links one by one."""
    counts: dict[str, int] = {}
    for rank, (place, host) in enumerate(zip(cluster.ranks, cluster.hosts)):
        match = _RANK.fullmatch(place)
        index = counts.setdefault(host, 0)
        if match is None or match["host"] != host or int(match["index"]) != index:
            raise ValueError(
                f"a cluster file numbers ranks host by host: rank {rank} must be {host}/gpu{index}, got {place!r}"
            )
        counts[host] += 1
    return {
        "name": cluster.name,
        "hosts": [{"name": host, "accelerators": number} for host, number in counts.items()],
        "accelerator": describe_accelerator(cluster.accelerator),
        "links": [_describe_link(link) for link in cluster.links],
        "overhead": {name: TIME.write(value) for name, value in asdict(cluster.overhead).items()},
        "sources": dict(cluster.sources),
    }


def describe_accelerator(accelerator: Accelerator, *, digits: int = 15) -> dict[str, Any]:
    """The description of an accelerator, its figures in so many digits."""

    def rates(found: tuple[Rate, ...]) -> str | list[dict[str, Any]]:
        if [rate.edge for rate in found] == [1]:
            return FLOPS.write(found[0].flops, digits=digits)
        return [{"edge": rate.edge, "rate": FLOPS.write(rate.flops, digits=digits)} for rate in found]

    return {
        "name": accelerator.name,
        "memory": SIZE.write(accelerator.memory, digits=digits),
        "memory_bandwidth": BANDWIDTH.write(accelerator.memory_bandwidth, digits=digits),
        "matmul": {dtype: FLOPS.write(rate, digits=digits) for dtype, rate in accelerator.matmul.items()},
        "attention": {
            dtype: {
                "forward": rates(kernel.forward),
                "backward": rates(kernel.backward),
                "causal": float(f"{kernel.causal:.{digits}g}"),
                "launch": TIME.write(kernel.launch, digits=digits),
            }
            for dtype, kernel in accelerator.attention.items()
        },
    }


def _describe_link(link: Link) -> dict[str, Any]:
    found: dict[str, Any] = {
        "between": [link.a.replace("/", "."), link.b.replace("/", ".")],
        "bandwidth": BANDWIDTH.write(link.forward),
        "latency": TIME.write(link.latency),
    }
    if link.half_duplex:
        found["half_duplex"] = True
    elif link.backward == AGAINST:
        found["one_way"] = True
    elif link.backward != link.forward:
        found["back"] = BANDWIDTH.write(link.backward)
    return found


class _Dumper(yaml.SafeDumper):
    """Short lists and mappings of plain values on one line."""

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        flat = all(isinstance(item, str | int | float) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=flat)

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        flat = (
            len(mapping) <= 6
            and "name" not in list(mapping)[1:]
            and all(
                (isinstance(value, str | int | float) and len(str(value)) <= 24) or _ends(value)
                for value in mapping.values()
            )
        )
        return super().represent_mapping(tag, mapping, flow_style=flat)


def _ends(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(end, str) for end in value)


def figures(found: Mapping[str, Any]) -> Iterator[str]:
    """The dotted name of each figure of a description; a link's is made of its ends, `links.gpu - spine.latency`."""
    accelerator = found["accelerator"]
    yield from ("accelerator.memory", "accelerator.memory_bandwidth")
    yield from (f"accelerator.matmul.{dtype}" for dtype in accelerator["matmul"])
    for dtype, kernel in accelerator["attention"].items():
        yield from (f"accelerator.attention.{dtype}.{key}" for key in kernel)
    for link in found["links"]:
        name = " - ".join(link["between"]) if "between" in link else "torus"
        yield from (f"links.{name}.{key}" for key in ("bandwidth", "back", "efficiency", "latency") if key in link)
    yield from (f"overhead.{key}" for key in found.get("overhead", {}))


def unsourced(name_or_path: str | Path) -> list[str]:
    """The figures of a file whose `sources` say nothing of them. A source `links` or `accelerator.attention` covers all
    figures whose name begins so."""
    found = description(find(name_or_path))
    sources = found.get("sources", {})
    return [name for name in figures(found) if not any(name == key or name.startswith(f"{key}.") for key in sources)]
