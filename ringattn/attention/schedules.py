"""What a call's schedules are, once its problem is known."""

from __future__ import annotations

import math

from ringattn.runtime.plan import Problem
from ringattn.schedule import make_schedule
from ringattn.schedule.value import Schedule, Shape
from ringattn.schedule.verify import verify
from ringattn.sequence.blocks import visible_blocks


def value_of(spec: str | Schedule, problem: Problem) -> Schedule:
    """The schedule that `spec`, a name or a value, stands for. ValueError where it does not fit the problem."""
    chunks = math.lcm(problem.query_layout.chunks_per_rank, problem.key_layout.chunks_per_rank)
    heads = problem.tensors.query_heads
    if isinstance(spec, str):
        return make_schedule(spec, Shape(problem.query_layout.world, heads, problem.tensors.key_heads, chunks))
    if spec.chunks_per_rank % chunks:
        raise ValueError(
            f"schedule {spec.name!r} has {spec.chunks_per_rank} chunks a rank, which must be a multiple of the "
            f"layout's {chunks}; build it with Shape(chunks_per_rank={chunks})"
        )
    if spec.heads[-1][1] != heads:
        raise ValueError(
            f"schedule {spec.name!r} is for {spec.heads[-1][1]} query heads, but query has {heads}; "
            f"build it with Shape(query_heads={heads})"
        )
    return spec


def prove(schedule: Schedule, problem: Problem, *, backward: bool) -> None:
    """Raise ValueError with the first fault of a schedule, for the problem's mask and layouts."""
    factor = schedule.chunks_per_rank // problem.query_layout.chunks_per_rank
    layouts = problem.query_layout.refine(factor), problem.key_layout.refine(factor)
    verify(schedule, visible_blocks(problem.mask, *layouts), backward=backward)


def name_of(spec: str | Schedule) -> str:
    """A few words that differ where two schedules do."""
    return spec if isinstance(spec, str) else f"{spec.name} {spec.digest()[:12]}"
