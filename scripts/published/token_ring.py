"""token-ring's README: TokenRing and ring attention on 4 x A10 behind PCIe switches, 24,000 causal tokens, 16 bits.

The README reads times of steps off a profile. Ring attention's is the transfer of K and V to the next GPU, 7.6 ms: it
sets what one message gets, which is half of what a PCIe 4.0 x16 slot carries. TokenRing's are then predicted.
"""

from __future__ import annotations

from dataclasses import replace

from published.table import Constant, Row, Table
from ringattn.planner.cluster import Cluster, Link, Rate
from ringattn.planner.cluster_file import read_cluster
from ringattn.planner.costs import Workload, costs_of
from ringattn.planner.simulate import simulate
from ringattn.schedule import make_schedule
from ringattn.schedule.traffic import Tensors
from ringattn.schedule.value import Kind, Shape, Side
from ringattn.sequence.layout import make_layout
from ringattn.sequence.mask import Mask

RANKS, TOKENS, HEADS, HEAD_DIM = 4, 6000, 32, 128
# Partial results travel in 16 bits, unlike ours.
TENSORS = Tensors(1, HEADS, HEADS, HEAD_DIM, item_bytes=2, sum_bytes=2)

PUBLISHED = (3.5e-3, 3.5e-3, 4.6e-3)
RING_STEP = 7.6e-3

MESSAGE = 2 * TOKENS * HEADS * HEAD_DIM * 2 / RING_STEP
SLOT = 24e9
KERNEL = 0.73 * 125e12


def cluster() -> Cluster:
    """Four slots, and between any two of them what one message gets each way."""
    shipped = read_cluster("a10_4x")
    kernel = replace(shipped.accelerator.attention["bfloat16"], forward=(Rate(TOKENS // 2, KERNEL),))
    ranks = tuple(f"gpu{rank}" for rank in range(RANKS))
    slots = [Link(gpu, f"slot of {gpu}", SLOT, SLOT) for gpu in ranks]
    pairs = [
        Link(f"slot of {gpu}", f"slot of {other}", MESSAGE, MESSAGE)
        for index, gpu in enumerate(ranks)
        for other in ranks[:index]
    ]
    accelerator = replace(shipped.accelerator, attention={"bfloat16": kernel})
    return Cluster("4 x A10", ranks, ("node",) * RANKS, accelerator, (*slots, *pairs), shipped.overhead)


def steps(schedule: str) -> list[float]:
    """Seconds of each step in which inputs travel: the longest of their transfers and of the computation, without the
    merges. As in the published code, whole shards travel, also where the mask leaves half of one without use."""
    made, layout = cluster(), make_layout("zigzag", RANKS * TOKENS, RANKS)
    workload = Workload(layout, layout, Mask(), TENSORS, "bfloat16")
    costs = costs_of(make_schedule(schedule, Shape(RANKS, HEADS, HEADS)), workload, made.accelerator, backward=False)
    side = Side.QUERY if schedule == "tokenring" else Side.KEY
    parcel = costs.bytes(Kind.PARCEL, side, (0, 1), 0)
    events = [event for line in simulate(costs, made, record=True).timelines for event in line.events]
    return [
        max(
            event.stop - event.start
            for event in events
            if event.step == step and (event.kind == "compute" or (event.kind == "receive" and event.bytes == parcel))
        )
        for step in range(RANKS - 1)
    ]


def table() -> Table:
    predicted = steps("tokenring")
    return Table(
        "B. token-ring's README: TokenRing on 4 x A10, 24,000 causal tokens, forward",
        "ms",
        tuple(
            Row(f"step {index}", 1e3 * published, 1e3 * found)
            for index, (published, found) in enumerate(zip(PUBLISHED, predicted))
        ),
        (
            Constant("a message", f"{MESSAGE / 1e9:.1f} GB/s", "ring attention's step, K and V of a rank in 7.6 ms"),
            Constant("a slot", "24 GB/s each way", "PCIe 4.0 x16 as NCCL counts it (src/graph/topo.cc)"),
            Constant("kernel", "91 TFLOP/s", "FlashAttention-2's 73 % (arXiv 2307.08691, section 4.1) of an A10's 125"),
            Constant("memory, launches, overheads", "as shipped", "conf/cluster/a10_4x.yaml"),
        ),
        (f"ring attention's steps, {1e3 * RING_STEP} ms; simulated {1e3 * max(steps('ring')):.1f} ms",),
    )
