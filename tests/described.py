"""Small clusters and calls, described in a line, for tests."""

from ringattn.planner.cluster import Accelerator, Cluster, Kernel, Link, Overhead, Rate
from ringattn.planner.costs import Workload
from ringattn.schedule.traffic import Tensors
from ringattn.sequence.layout import make_layout
from ringattn.sequence.mask import Mask


def accelerator(flops: float = 1e12, memory_bandwidth: float = 1e15) -> Accelerator:
    """One rate for everything; memory so fast that merging costs nothing, unless given."""
    kernel = Kernel(forward=(Rate(1024, flops),), backward=(Rate(1024, flops),))
    return Accelerator(
        name="made up",
        memory=80e9,
        memory_bandwidth=memory_bandwidth,
        matmul={"float32": flops, "bfloat16": flops},
        attention={"float32": kernel, "bfloat16": kernel},
    )


def mesh(ranks: int, bandwidth: float = 25e6, **rates: float) -> Cluster:
    """A link for each pair of hosts, one rank each."""
    names = tuple(f"host{rank}" for rank in range(ranks))
    links = tuple(Link(a, b, bandwidth, bandwidth) for i, a in enumerate(names) for b in names[:i])
    return Cluster("mesh", names, names, accelerator(**rates), links)


def switch(ranks: int, bandwidth: float = 25e6, overhead: Overhead | None = None, **rates: float) -> Cluster:
    """A port for each rank."""
    names = tuple(f"host{rank}" for rank in range(ranks))
    links = tuple(Link(name, "switch", bandwidth, bandwidth) for name in names)
    return Cluster("switch", names, names, accelerator(**rates), links, overhead or Overhead())


def two_levels(hosts: int, inside: int, fast: float = 100e6, slow: float = 25e6, **rates: float) -> Cluster:
    """Hosts with a switch each, one shared link from each to all others."""
    ranks = tuple(f"host{h}/gpu{r}" for h in range(hosts) for r in range(inside))
    links = [Link(rank, rank.split("/")[0] + "/switch", fast, fast) for rank in ranks]
    links += [Link(f"host{h}/switch", "spine", slow, slow) for h in range(hosts)]
    of = tuple(rank.split("/")[0] for rank in ranks)
    return Cluster("two levels", ranks, of, accelerator(**rates), tuple(links))


def call(
    ranks: int, length: int, *, heads: int = 8, key_heads: int = 8, causal: bool = False, layout: str = "zigzag"
) -> Workload:
    """fp32, heads of 64."""
    cut = make_layout(layout, length, ranks)
    return Workload(cut, cut, Mask(causal), Tensors(1, heads, key_heads, 64, 4, 4), "float32")
