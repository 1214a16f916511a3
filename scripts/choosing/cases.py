"""What is predicted: clusters, attention calls, and one way to time a schedule on them."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache

from ringattn.planner.cluster import Accelerator, Cluster, Kernel, Link, Rate
from ringattn.planner.cluster_description import build
from ringattn.planner.cluster_file import description, find, read_cluster
from ringattn.planner.costs import BACKWARD_FLOPS, FORWARD_FLOPS, Workload, kernel_for
from ringattn.planner.estimate import Estimator
from ringattn.planner.points import Point, points
from ringattn.planner.predict import predict, shape_of
from ringattn.schedule.traffic import Tensors
from ringattn.sequence.blocks import block_areas
from ringattn.sequence.layout import make_layout
from ringattn.sequence.mask import Mask

# From so many ranks on, schedules are estimated step by step instead of played message by message.
ESTIMATED_RANKS = 64

QUERY_HEADS = 32
HEAD_DIM = 128

# Eight hosts of one H100 each: `h100_8x` without its NVLink, so that every rank has one 400 Gb/s port.
PORTS = "h100, one a host"

# Four ranks and links of 25 GB/s, a link for each pair or a port for each rank, and kernels that take no time.
MESH, SWITCH = "mesh", "switch"


@dataclass(frozen=True)
class Call:
    """One attention call, bfloat16, heads of 128. tokens: of each rank. documents: cumulative lengths."""

    cluster: str
    ranks: int
    tokens: int
    key_heads: int = 8
    layout: str = "zigzag"
    causal: bool = True
    window: int | None = None
    documents: tuple[int, ...] | None = None

    @property
    def length(self) -> int:
        return self.ranks * self.tokens


@dataclass(frozen=True)
class Time:
    """Seconds: of the whole pass, of the slowest rank's computation, and of the busiest link's bytes (0 where
    estimated)."""

    seconds: float
    compute: float
    wire: float


@lru_cache(maxsize=64)
def cluster_of(name: str, ranks: int) -> Cluster:
    """A shipped cluster with as many hosts as it takes, or one of those made up here."""
    if name == PORTS:
        found = description(find("h100_8x"))
        return build(found | {"hosts": {"name": "node", "count": ranks, "accelerators": 1}})
    if name in (MESH, SWITCH):
        return _bare(name, ranks)
    one = read_cluster(name)
    return read_cluster(name, nodes=-(-ranks // one.world)).first(ranks)


def _bare(name: str, ranks: int) -> Cluster:
    hosts = tuple(f"host{rank}" for rank in range(ranks))
    rate = 25e9
    if name == MESH:
        links = [Link(a, b, rate, rate) for number, a in enumerate(hosts) for b in hosts[:number]]
    else:
        links = [Link(host, "switch", rate, rate) for host in hosts]
    kernel = Kernel(forward=(Rate(1024, 1e30),), backward=(Rate(1024, 1e30),))
    accelerator = Accelerator(
        name="no time to compute", memory=1e30, memory_bandwidth=1e30, matmul={}, attention={"bfloat16": kernel}
    )
    return Cluster(name, hosts, hosts, accelerator, tuple(links))


@lru_cache(maxsize=64)
def workload_of(call: Call) -> Workload:
    mask = Mask(call.causal, call.window, call.documents)
    layout = make_layout(call.layout, call.length, call.ranks, mask)
    tensors = Tensors(1, QUERY_HEADS, call.key_heads, HEAD_DIM, item_bytes=2, sum_bytes=4)
    return Workload(layout, layout, mask, tensors, "bfloat16")


@lru_cache(maxsize=4096)
def timed(call: Call, schedule: str, *, backward: bool) -> Time:
    """One pass: played, or estimated from `ESTIMATED_RANKS` ranks on.

    Raises:
        ValueError: the schedule cannot be built for the call.
    """
    if call.ranks >= ESTIMATED_RANKS:
        point = points_of(call).get(schedule)
        if point is None:
            raise ValueError(f"{schedule} is no point of the grid over {call.ranks} ranks: only these are estimated")
        found = estimator_of(call).estimate(point, backward=backward)
        return Time(found.seconds, found.compute, found.lane_seconds)
    return played(call, schedule, backward=backward)


def played(call: Call, schedule: str, *, backward: bool) -> Time:
    """One pass in the event simulator."""
    cluster = cluster_of(call.cluster, call.ranks)
    made = predict(schedule, workload_of(call), cluster, backward=backward)
    return Time(made.seconds, max(made.computed), made.wire_bound(cluster)[0])


def estimator_of(call: Call) -> Estimator:
    # What takes time to set up, areas and ways, does not depend on key heads: the rest is done once for all of them.
    found = copy(_estimator(replace(call, key_heads=QUERY_HEADS)))
    found.workload = workload_of(call)
    return found


@lru_cache(maxsize=16)
def _estimator(call: Call) -> Estimator:
    return Estimator(cluster_of(call.cluster, call.ranks), workload_of(call))


@lru_cache(maxsize=8)
def points_of(call: Call) -> dict[str, Point]:
    """Every point of the grid, by what `schedule=` takes."""
    hosts = len(set(cluster_of(call.cluster, call.ranks).hosts))
    return {point.spec(): point for point in points(shape_of(workload_of(call)), hosts=hosts)}


def ideal(call: Call, *, backward: bool) -> float:
    """Seconds of the visible pairs' products, spread evenly, at the kernel's best rate: what no schedule beats."""
    return pairs(call) / call.ranks * _flops_of_a_pair(backward) / _best_rate(call, backward)


def pairs(call: Call) -> float:
    """Visible (query, key) pairs of the whole sequence."""
    whole = make_layout("contiguous", call.length, 1)
    return float(block_areas(Mask(call.causal, call.window, call.documents), whole, whole, samples=4096).sum())


def _flops_of_a_pair(backward: bool) -> int:
    return (BACKWARD_FLOPS if backward else FORWARD_FLOPS) * QUERY_HEADS * HEAD_DIM


def _best_rate(call: Call, backward: bool) -> float:
    kernel = kernel_for(cluster_of(call.cluster, call.ranks).accelerator, "bfloat16")
    return max(rate.flops for rate in (kernel.backward if backward else kernel.forward))
