"""ring-flash-attn's README: ring attention on 8 x H800 and 8 x A100 in three layouts, forward and with the backward.

Llama-3.1-8B's shape, causal, batch 1, 8,192 tokens a GPU. The same table has flash-attn alone on one causal block of
8,192 tokens, of which a GPU's share of 65,536 causal tokens is 8: that sets the kernel's rate and nothing else does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from published.table import Constant, Row, Table
from ringattn.planner.cluster import Cluster, Kernel, Rate
from ringattn.planner.cluster_file import read_cluster
from ringattn.planner.costs import BACKWARD_FLOPS, FORWARD_FLOPS, Workload, costs_of
from ringattn.planner.simulate import simulate
from ringattn.schedule import make_schedule
from ringattn.schedule.prune import prune
from ringattn.schedule.traffic import Tensors
from ringattn.schedule.value import Shape
from ringattn.sequence.blocks import visible_blocks
from ringattn.sequence.layout import make_layout
from ringattn.sequence.mask import Mask

RANKS, TOKENS, HEADS, KEY_HEADS, HEAD_DIM = 8, 8192, 32, 8, 128
TENSORS = Tensors(1, HEADS, KEY_HEADS, HEAD_DIM, item_bytes=2, sum_bytes=4)


class Speeds(NamedTuple):
    """Iterations/s."""

    forward: float
    both: float


# flash-attn on one causal block, per second; the README divides by 8.
ONE = {"h800_8x": Speeds(591.5, 154.7), "a100_8x": Speeds(373.4, 94.7)}
# What the README calls ring_attn, zigzag_ring and stripe_attn, by our layouts: the schedule is `ring` in each.
PUBLISHED = {
    "h800_8x": {"contiguous": Speeds(38.5, 10.4), "zigzag": Speeds(63.0, 17.4), "striped": Speeds(55.0, 16.0)},
    "a100_8x": {"contiguous": Speeds(24.0, 6.2), "zigzag": Speeds(38.2, 10.6), "striped": Speeds(32.5, 9.75)},
}

# FlashAttention-2 on an H100, head dimension 128, in TFLOP/s (arXiv 2407.08608, figures 5 and 6).
CAUSAL = 333 / 370
HALF_FORWARD, HALF_BACKWARD = 368 / 370, 310 / 318

# Bytes that cross memory for an element of `out` in the published merge, one element-wise operation after the other.
CAST = 2 + 4  # bf16 to fp32, or back
MERGE = CAST + (4 + 4 + 4) + (4 + 4) + (4 + 4 + 4)  # cast; out - block; weight * that; out - that
COPY_BACK = 4 + 4  # where only a slice of the rows is merged
ADD = 4 + 2 + 4  # an fp32 sum and a bf16 gradient


def kernel_of(one: Speeds, launch: float) -> Kernel:
    """The kernel that computes one causal block in the published time."""
    scores = TOKENS * (TOKENS + 1) / 2 * HEADS * HEAD_DIM
    forward = FORWARD_FLOPS * scores / (1 / one.forward - launch) / CAUSAL
    backward = BACKWARD_FLOPS * scores / (1 / one.both - 1 / one.forward - launch) / CAUSAL
    return Kernel(
        forward=(Rate(TOKENS // 2, forward * HALF_FORWARD), Rate(TOKENS, forward)),
        backward=(Rate(TOKENS // 2, backward * HALF_BACKWARD), Rate(TOKENS, backward)),
        causal=CAUSAL,
        launch=launch,
    )


def merge_passes(layout: str, *, backward: bool) -> float:
    """How often a byte of a partial in fp32 crosses memory, on average over the 8 blocks of the slowest rank.

    The first block is cast, 7 are merged, the sum is cast back. The rank that is last in a contiguous or zigzag ring
    merges whole tensors; the first of a striped one leaves out a row each time, and so copies.
    """
    if not backward:
        each = MERGE + (COPY_BACK if layout == "striped" else 0)
        return (CAST + (RANKS - 1) * each + CAST) / RANKS / 4
    # The simulator adds dk and dv to what a rank has made and then to what it gets; the published code adds once.
    added_once, added = HEADS + 2 * KEY_HEADS, HEADS + 4 * KEY_HEADS
    return (CAST + (RANKS - 1) * ADD + CAST) / RANKS / 4 * added_once / added


def predict(cluster: Cluster, layout: str) -> Speeds:
    """Iterations/s of the ring in one layout, on a cluster whose kernel is set."""
    cut = make_layout(layout, RANKS * TOKENS, RANKS)
    schedule = prune(make_schedule("ring", Shape(RANKS, HEADS, KEY_HEADS)), visible_blocks(Mask(), cut, cut))
    seconds = []
    for backward in (False, True):
        workload = Workload(cut, cut, Mask(), TENSORS, "bfloat16", merge_passes(layout, backward=backward))
        costs = costs_of(schedule, workload, cluster.accelerator, backward=backward)
        seconds.append(simulate(costs, cluster).seconds)
    return Speeds(1 / seconds[0], 1 / sum(seconds))


def measured_cluster(name: str) -> Cluster:
    """A shipped cluster whose kernel is the measured one."""
    cluster = read_cluster(name)
    kernel = kernel_of(ONE[name], cluster.accelerator.attention["bfloat16"].launch)
    return replace(cluster, accelerator=replace(cluster.accelerator, attention={"bfloat16": kernel}))


def table() -> Table:
    rows, given = [], []
    for name, by_layout in PUBLISHED.items():
        cluster = measured_cluster(name)
        forward, backward = (
            cluster.accelerator.attention["bfloat16"].flops(TOKENS, backward=direction) for direction in (False, True)
        )
        given.append(
            f"flash-attn on one causal block of 8,192 tokens, {name}: {ONE[name].forward} and {ONE[name].both} "
            f"iterations/s, that is {forward / 1e12:.0f} and {backward / 1e12:.0f} TFLOP/s on a full block"
        )
        for layout, published in by_layout.items():
            predicted = predict(cluster, layout)
            rows.append(Row(f"{name} {layout} forward", published.forward, predicted.forward))
            rows.append(Row(f"{name} {layout} forward + backward", published.both, predicted.both))
    return Table(
        "A. ring-flash-attn's README, batch API: ring attention on 8 GPUs, 65,536 causal tokens",
        "iterations/s",
        tuple(rows),
        (
            Constant(
                "causal", f"{CAUSAL:.2f}", "FlashAttention-2 on an H100 at 8,192 tokens, arXiv 2407.08608, figure 5"
            ),
            Constant(
                "rate at 4,096 tokens",
                f"{HALF_FORWARD:.3f} forward, {HALF_BACKWARD:.3f} backward of that at 8,192",
                "FlashAttention-2 on an H100, arXiv 2407.08608, figures 5 and 6",
            ),
            Constant(
                "merge",
                f"{MERGE} bytes an element, {MERGE + COPY_BACK} of a slice, {ADD} in the backward",
                "counted from ring-flash-attn's operations as of its pull request 34, each a kernel of its own",
            ),
            Constant("links, memory, launches, overheads", "as shipped", "conf/cluster/h800_8x.yaml and a100_8x.yaml"),
        ),
        tuple(given),
    )
