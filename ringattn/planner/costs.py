"""What a schedule's tasks and messages cost on an accelerator, in seconds and bytes. No torch.

Compute: 4 FLOP forward and 10 backward for each visible (query, key) pair, head and head dimension (two matrix
products forward, five backward; FlashAttention-2, arXiv 2307.08691, section 4), at the rate of the accelerator's
kernel for blocks of that edge, plus what a call takes to start. Around it, element-wise work at the rate of memory:
results are added to sums (read, read, write), and parcels that set out are packed (read, write).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringattn.planner.cluster import Accelerator, Kernel
from ringattn.schedule.messages import Envelope, messages
from ringattn.schedule.traffic import Tensors, chunk_bytes
from ringattn.schedule.value import Kind, Move, Schedule, Side, Task
from ringattn.sequence.blocks import block_areas
from ringattn.sequence.layout import Layout
from ringattn.sequence.mask import Mask

FORWARD_FLOPS = 4
BACKWARD_FLOPS = 10

# How often a byte of a result crosses memory when it is added to a sum, and a byte of a parcel when it is packed.
_MERGE_PASSES = 3
_PACK_PASSES = 2

# So many queries of a chunk stand for all of them when areas are counted.
_SAMPLES = 16


@dataclass(frozen=True)
class Workload:
    """One attention call. dtype: as torch names it, `bfloat16`; of q, k and v. merge_passes: how often a byte of a
    partial result crosses memory when it is merged (3 where the merge is one kernel; codes that write it with
    several element-wise operations need more)."""

    query_layout: Layout
    key_layout: Layout
    mask: Mask
    tensors: Tensors
    dtype: str
    merge_passes: float = _MERGE_PASSES

    def refined(self, schedule: Schedule) -> tuple[Layout, Layout]:
        """The layouts cut as the schedule cuts."""
        factor = schedule.chunks_per_rank // self.query_layout.chunks_per_rank
        return self.query_layout.refine(factor), self.key_layout.refine(factor)


def kernel_for(accelerator: Accelerator, dtype: str) -> Kernel:
    """The accelerator's attention kernel. ValueError where the cluster's file has no rate for the dtype."""
    found = accelerator.attention.get(dtype)
    if found is None:
        raise ValueError(
            f"accelerator {accelerator.name!r} has no attention rate for {dtype}: it has "
            f"{', '.join(sorted(accelerator.attention))}; add it to the cluster's file, or choose one of these"
        )
    return found


class PlayedStep(NamedTuple):
    """A step as the simulator plays it. messages: each with its bytes and moves; tasks: anything with a `rank`."""

    messages: list[tuple[Envelope, int, list[Any]]]
    tasks: Sequence[Any]


@dataclass
class Costs:
    """Of one schedule in one direction; see `costs_of`."""

    schedule: Schedule
    workload: Workload
    accelerator: Accelerator
    kernel: Kernel
    backward: bool
    areas: NDArray[np.float64]
    rows: dict[Side, list[int]]
    _seconds: dict[tuple[tuple[int, ...], tuple[int, ...], int], tuple[float, float]] = field(default_factory=dict)
    _bytes: dict[tuple[Kind, Side, tuple[int, ...], int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        layouts = self.workload.refined(self.schedule)
        self._size = chunk_bytes(self.schedule, *layouts, self.workload.tensors, backward=self.backward)

    @property
    def name(self) -> str:
        return self.schedule.name

    @property
    def world(self) -> int:
        return self.schedule.world

    def steps(self) -> Iterator[PlayedStep]:
        """The schedule's steps in this direction."""
        for step in self.schedule.steps:
            found: list[tuple[Envelope, int, list[Any]]] = []
            for envelope, moves in messages(step, backward=self.backward).items():
                size = sum(self.bytes(move.kind, move.side, move.chunks, move.heads) for move in moves)
                found.append((envelope, size, [*moves]))
            yield PlayedStep(found, step.tasks)

    def task(self, task: Task) -> tuple[float, float]:
        """Seconds that a task computes, and then adds its results to sums."""
        key = (task.queries, task.keys, task.heads)
        found = self._seconds.get(key)
        if found is None:
            found = self._seconds[key] = self._task(*key)
        return found

    def _task(self, queries: tuple[int, ...], keys: tuple[int, ...], heads: int) -> tuple[float, float]:
        tensors = self.workload.tensors
        start, stop = self.schedule.heads[heads]
        rows = np.asarray([self.rows[Side.QUERY][chunk] for chunk in queries], dtype=np.float64)
        columns = np.asarray([self.rows[Side.KEY][chunk] for chunk in keys], dtype=np.float64)
        shown = self.areas[np.ix_(queries, keys)]
        if start == stop or not shown.any():
            return 0.0, 0.0
        whole = rows[:, None] * columns[None]
        # A diagonal passes through the blocks that are seen in part. One call computes all that their queries see
        # (`ringattn.kernels.bands`), and it is slower as a whole.
        cut = ((shown > 0) & (shown < whole * (1 - 1e-9))).any(axis=1)
        edge = float(min(rows[shown.any(axis=1)].sum(), columns[shown.any(axis=0)].sum()))
        scores = float(shown.sum() + shown[cut].sum() * (1 / self.kernel.causal - 1))
        flops = (BACKWARD_FLOPS if self.backward else FORWARD_FLOPS) * scores * tensors.head_dim
        flops *= tensors.batch * (stop - start)
        compute = self.kernel.launch + flops / self.kernel.flops(edge, backward=self.backward)
        result = self.bytes(Kind.PARTIAL, Side.QUERY, queries, heads)
        if self.backward:
            result += self.bytes(Kind.PARTIAL, Side.KEY, keys, heads)
        return compute, self.merge(result)

    def bytes(self, kind: Kind, side: Side, chunks: tuple[int, ...], heads: int) -> int:
        """Bytes of what travels of these chunks."""
        key = (kind, side, chunks, heads)
        found = self._bytes.get(key)
        if found is None:
            found = self._bytes[key] = sum(self._size(kind, side, chunk, heads) for chunk in chunks)
        return found

    def merge(self, result_bytes: float) -> float:
        """Seconds to add a result of so many bytes to a sum."""
        return self.workload.merge_passes * result_bytes / self.accelerator.memory_bandwidth

    def pack(self, moves: Sequence[Move]) -> float:
        """Seconds to pack those of the moves that set out from the owner; others go on from the buffer they lie in."""
        moved = sum(
            self.bytes(move.kind, move.side, move.chunks, move.heads)
            for move in moves
            if move.kind is Kind.PARCEL and self.schedule.owner(move.chunks[0]) == move.source
        )
        return _PACK_PASSES * moved / self.accelerator.memory_bandwidth


def costs_of(schedule: Schedule, workload: Workload, accelerator: Accelerator, *, backward: bool) -> Costs:
    """The costs of `schedule` (pruned for the workload's mask or not: empty blocks cost nothing)."""
    query_layout, key_layout = workload.refined(schedule)
    areas = block_areas(workload.mask, query_layout, key_layout, samples=_SAMPLES)
    rows = {
        Side.QUERY: [len(chunk) for chunk in query_layout.chunks],
        Side.KEY: [len(chunk) for chunk in key_layout.chunks],
    }
    kernel = kernel_for(accelerator, workload.dtype)
    return Costs(schedule, workload, accelerator, kernel, backward, areas, rows)
