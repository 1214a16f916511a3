"""Everything about one rank's part of an attention call that does not depend on the values of its tensors.

Compiled once for a shape: messages with the places of their tensors in them, and for each task the kernel calls that
its mask leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ringattn.kernels.bands import Band, find_bands
from ringattn.kernels.kernel import Kernel, sum_dtype
from ringattn.kernels.landmark_bands import find_landmark_bands
from ringattn.runtime.program import Message, Program, compile_program
from ringattn.schedule.prune import prune
from ringattn.schedule.traffic import Part, Tensors, parts
from ringattn.schedule.value import Schedule, Side, Task
from ringattn.sequence.blocks import visible_blocks
from ringattn.sequence.layout import Layout, positions_of
from ringattn.sequence.mask import Ints, Mask


@dataclass(frozen=True)
class Problem:
    """One attention call as all ranks see it. scale: of the scores; softcap: of the scaled scores."""

    query_layout: Layout
    key_layout: Layout
    mask: Mask
    tensors: Tensors
    dtype: torch.dtype
    scale: float
    softcap: float | None

    def layout(self, side: Side) -> Layout:
        return self.query_layout if side is Side.QUERY else self.key_layout


class Place(NamedTuple):
    """Where one tensor of a message lies: byte range, and its shape [rows, B, H(, D)]."""

    side: Side
    heads: int
    part: Part
    start: int
    stop: int
    shape: tuple[int, ...]
    dtype: torch.dtype


class Wire(NamedTuple):
    """The bytes of a message. rows[item]: the half-open range of a chunk's rows in its side's and heads' tensors."""

    size: int
    places: tuple[Place, ...]
    rows: dict[tuple[Side, int, int], tuple[int, int]]


class HeadSlice(NamedTuple):
    """Query heads and key heads of one kernel call, counted inside a head group; grouped evenly."""

    query: tuple[int, int]
    key: tuple[int, int]


class TaskPlan(NamedTuple):
    """A task as kernel calls.

    queries, keys: its chunks that hold anything, by their first position.
    query_order, key_order: int64, the rows of the chunks put one behind the other in the order of position; None
        where they are in it.
    bands: over rows in the order of position, each computed by one kernel call for each of `slices`.
    """

    task: Task
    queries: tuple[int, ...]
    keys: tuple[int, ...]
    query_order: Tensor | None
    key_order: Tensor | None
    bands: tuple[Band, ...]
    slices: tuple[HeadSlice, ...]


@dataclass(eq=False)
class Plan:
    """One direction of one rank's part of a `Problem` under a schedule.

    schedule: pruned for the mask; the same on every rank. query_layout, key_layout: cut as the schedule cuts.
    """

    schedule: Schedule
    query_layout: Layout
    key_layout: Layout
    problem: Problem
    rank: int
    backward: bool
    program: Program
    wires: dict[Message, Wire]
    tasks: dict[int, list[TaskPlan]]


def compile_plan(
    problem: Problem, schedule: Schedule, rank: int, kernel: Kernel, *, backward: bool, device: torch.device
) -> Plan:
    """Prune `schedule` for the problem's mask and lower it for `rank`."""
    factor = schedule.chunks_per_rank // problem.query_layout.chunks_per_rank
    query_layout, key_layout = problem.query_layout.refine(factor), problem.key_layout.refine(factor)
    pruned = prune(schedule, visible_blocks(problem.mask, query_layout, key_layout))
    program = compile_program(pruned, rank, backward=backward)
    layouts = {Side.QUERY: query_layout, Side.KEY: key_layout}
    wires = {
        message: _wire(message, pruned, layouts, problem, backward)
        for step in program.steps
        for message in (*step.receives, *step.sends)
    }
    tasks = {
        index: [
            plan
            for task in step.tasks
            if (plan := _plan_task(task, pruned, layouts, problem, kernel, device)) is not None
        ]
        for index, step in enumerate(program.steps)
    }
    return Plan(pruned, query_layout, key_layout, problem, rank, backward, program, wires, tasks)


def _wire(message: Message, schedule: Schedule, layouts: dict[Side, Layout], problem: Problem, backward: bool) -> Wire:
    rows: dict[tuple[Side, int, int], tuple[int, int]] = {}
    total: dict[tuple[Side, int], int] = {}
    for side, chunk, heads in message.items:
        start = total.get((side, heads), 0)
        stop = start + len(layouts[side].chunks[chunk])
        rows[side, chunk, heads] = (start, stop)
        total[side, heads] = stop
    wide = sum_dtype(problem.dtype)
    tensors = problem.tensors
    found = []
    for (side, heads), count in total.items():
        first, last = tensors.heads(side, schedule.heads[heads])
        for part in parts(message.kind, side, backward=backward):
            shape: tuple[int, ...] = (count, tensors.batch, last - first)
            if part.vector:
                shape = (*shape, tensors.head_dim)
            found.append((side, heads, part, shape, wide if part.wide else problem.dtype))
    # Wider types first, so that each tensor starts at a multiple of its own element size.
    found.sort(key=lambda entry: -entry[-1].itemsize)
    places, end = [], 0
    for side, heads, part, shape, dtype in found:
        start, end = end, end + int(np.prod(shape)) * dtype.itemsize
        places.append(Place(side, heads, part, start, end, shape, dtype))
    return Wire(end, tuple(places), rows)


def _plan_task(
    task: Task,
    schedule: Schedule,
    layouts: dict[Side, Layout],
    problem: Problem,
    kernel: Kernel,
    device: torch.device,
) -> TaskPlan | None:
    slices = head_slices(schedule.heads[task.heads], problem.tensors.query_heads // problem.tensors.key_heads)
    queries, query_positions, query_order = _in_order(task.queries, layouts[Side.QUERY], device)
    keys, key_positions, key_order = _in_order(task.keys, layouts[Side.KEY], device)
    calls = tuple(call for band in _bands(query_positions, key_positions, problem) for call in kernel.lower(band))
    if not calls or not slices:
        return None
    return TaskPlan(task, queries, keys, query_order, key_order, calls, slices)


def _bands(query_positions: Ints, key_positions: Ints, problem: Problem) -> Sequence[Band]:
    queries, keys = problem.query_layout.length, problem.key_layout.length
    if problem.mask.landmark_block is not None:
        return find_landmark_bands(query_positions, key_positions, problem.mask, queries)
    start, stop = problem.mask.intervals(query_positions, queries=queries, keys=keys)
    return find_bands(np.searchsorted(key_positions, start), np.searchsorted(key_positions, stop))


def _in_order(
    chunks: Sequence[int], layout: Layout, device: torch.device
) -> tuple[tuple[int, ...], np.ndarray, Tensor | None]:
    """Chunks by first position, all their positions ascending, and the order that makes them ascend if needed."""
    filled = sorted((c for c in chunks if len(layout.chunks[c])), key=lambda c: layout.chunks[c][0])
    positions = positions_of([layout.chunks[c] for c in filled])
    if len(positions) < 2 or (np.diff(positions) > 0).all():
        return tuple(filled), positions, None
    order = np.argsort(positions)
    return tuple(filled), positions[order], torch.from_numpy(order).to(device)


def head_slices(group: tuple[int, int], ratio: int) -> tuple[HeadSlice, ...]:
    """The query heads of `group`, cut where a key head is shared unevenly: at most three slices."""
    start, stop = group
    base = start // ratio
    whole_start = min(stop, -(-start // ratio) * ratio)
    whole_stop = max(whole_start, stop // ratio * ratio)
    slices = []
    for a, b in ((start, whole_start), (whole_start, whole_stop), (whole_stop, stop)):
        if b > a:
            slices.append(HeadSlice((a - start, b - start), (a // ratio - base, -(-b // ratio) - base)))
    return tuple(slices)
