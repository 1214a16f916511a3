"""Pipelining over heads: a schedule that is cut into slices of its heads, each a step behind the one before.

The phases of a schedule use links in turn: heads are exchanged, then rings turn, then heads go back, and each phase
waits for the one before. Heads have nothing to do with each other, so the first slice can be in one phase while the
second is in the phase before it: exchanges run beside computation, and on links that would stand idle.
"""

from __future__ import annotations

from ringattn.schedule.build import split_heads
from ringattn.schedule.value import Move, Schedule, Step, Task, key_heads_of


def sliced(schedule: Schedule, slices: int, ratio: int) -> Schedule:
    """`schedule` for each of `slices` parts of the heads of each head group, one step behind another.

    ratio: query heads for each key head. A slice has whole key heads, so that none is sent twice.

    Raises:
        ValueError: slices below 1, or a head group with fewer key heads.
    """
    if slices < 1:
        raise ValueError(f"slices must be at least 1, got {slices}")
    if slices == 1:
        return schedule
    most = most_slices(schedule, ratio)
    if slices > most:
        raise ValueError(
            f"slices have whole key heads: schedule {schedule.name!r} has {most} key heads in a head group, got "
            f"slices={slices}; use slices={most} or fewer head groups"
        )
    steps = len(schedule.steps) + slices - 1
    tasks: list[list[Task]] = [[] for _ in range(steps)]
    moves: list[list[Move]] = [[] for _ in range(steps)]
    for part in range(slices):
        for index, step in enumerate(schedule.steps, start=part):
            tasks[index] += [task._replace(heads=task.heads * slices + part) for task in step.tasks]
            moves[index] += [
                move._replace(heads=move.heads * slices + part, due=move.due + part) for move in step.moves
            ]
    heads = tuple(each for group in schedule.heads for each in _cut(group, slices, ratio))
    return Schedule(
        f"{schedule.name}:slices={slices}",
        schedule.world,
        schedule.chunks_per_rank,
        heads,
        tuple(Step(tuple(some), tuple(others)) for some, others in zip(tasks, moves)),
    )


def most_slices(schedule: Schedule, ratio: int) -> int:
    """How many slices the smallest head group that has heads can be cut into."""
    keys = [key_heads_of(group, ratio) for group in schedule.heads if group[0] < group[1]]
    return min(stop - start for start, stop in keys)


def _cut(group: tuple[int, int], slices: int, ratio: int) -> list[tuple[int, int]]:
    """The query heads of each slice of a group; the first and the last key head may have others of theirs elsewhere."""
    start, stop = group
    if start == stop:
        return [group] * slices
    first, last = key_heads_of(group, ratio)
    parts = split_heads(last - first, slices)
    return [(max(start, (first + a) * ratio), min(stop, (first + b) * ratio)) for a, b in parts]
