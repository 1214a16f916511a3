"""Drop from a schedule what a mask leaves without use: empty blocks, and the moves that only served them."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from ringattn.schedule.messages import Item
from ringattn.schedule.value import Kind, Move, Schedule, Side, Step, Task


def prune(schedule: Schedule, visible: NDArray[np.bool_]) -> Schedule:
    """The schedule without the blocks (i, j) at which `visible[i, j]` is False, and without what only they needed.

    visible: bool [query chunks, key chunks], from `ringattn.sequence.blocks.visible_blocks`. Works on any schedule.
    """
    expected = (schedule.chunks, schedule.chunks)
    if visible.shape != expected:
        raise ValueError(
            f"the mask's blocks must be those of the schedule: {visible.shape} blocks for {expected} chunks"
        )
    if visible.all():
        return schedule
    tasks = [
        tuple(kept for task in step.tasks if (kept := _prune_task(task, schedule, visible))) for step in schedule.steps
    ]
    parcels = _needed_parcels(schedule, tasks)
    partials = _moves_of_results(schedule, tasks)
    steps = [Step(tasks[s], tuple(parcels[s] + partials[s])) for s in range(len(schedule.steps))]
    return Schedule(schedule.name, schedule.world, schedule.chunks_per_rank, schedule.heads, _without_idle(steps))


def _prune_task(task: Task, schedule: Schedule, visible: NDArray[np.bool_]) -> Task | None:
    start, stop = schedule.heads[task.heads]
    if start == stop:
        return None
    block = visible[np.ix_(task.queries, task.keys)]
    if block.all():
        return task
    queries = tuple(task.queries[i] for i in np.flatnonzero(block.any(axis=1)))
    keys = tuple(task.keys[j] for j in np.flatnonzero(block.any(axis=0)))
    return Task(task.rank, queries, keys, task.heads) if queries else None


def _needed_parcels(schedule: Schedule, tasks: list[tuple[Task, ...]]) -> list[list[Move]]:
    """The moves of parcels that a task, or another such move, still needs; found from the last step backwards."""
    kept: list[list[Move]] = [[] for _ in schedule.steps]
    arriving: defaultdict[int, list[tuple[int, Move]]] = defaultdict(list)
    for index, step in enumerate(schedule.steps):
        for move in step.moves:
            if move.kind is Kind.PARCEL:
                arriving[move.due].append((index, move))
    needed: list[set[Item]] = [set() for _ in range(schedule.world)]
    for index in range(len(schedule.steps) - 1, -1, -1):
        for start, move in arriving[index]:
            wanted = needed[move.target]
            chunks = tuple(c for c in move.chunks if (move.side, c, move.heads) in wanted)
            if chunks:
                wanted.difference_update((move.side, c, move.heads) for c in chunks)
                kept[start].append(move._replace(chunks=chunks))
        for task in tasks[index]:
            needed[task.rank].update((Side.QUERY, c, task.heads) for c in task.queries)
            needed[task.rank].update((Side.KEY, c, task.heads) for c in task.keys)
        for move in kept[index]:
            if schedule.owner(move.chunks[0]) != move.source:
                needed[move.source].update((move.side, c, move.heads) for c in move.chunks)
    return kept


def _moves_of_results(schedule: Schedule, tasks: list[tuple[Task, ...]]) -> list[list[Move]]:
    """The moves of results that some task, or another such move, has brought about."""
    kept: list[list[Move]] = [[] for _ in schedule.steps]
    results: list[set[Item]] = [set() for _ in range(schedule.world)]
    arriving: defaultdict[int, list[tuple[int, Item]]] = defaultdict(list)
    for index, step in enumerate(schedule.steps):
        for task in tasks[index]:
            for side, chunks in ((Side.QUERY, task.queries), (Side.KEY, task.keys)):
                results[task.rank].update((side, c, task.heads) for c in chunks if schedule.owner(c) != task.rank)
        for move in step.moves:
            if move.kind is Kind.PARTIAL:
                here = results[move.source]
                chunks = tuple(c for c in move.chunks if (move.side, c, move.heads) in here)
                if chunks:
                    kept[index].append(move._replace(chunks=chunks))
                    items = [(move.side, c, move.heads) for c in chunks]
                    here.difference_update(items)
                    arriving[move.due].extend((move.target, item) for item in items)
        for target, item in arriving.pop(index, ()):
            if schedule.owner(item[1]) != target:
                results[target].add(item)
    return kept


def _without_idle(steps: list[Step]) -> tuple[Step, ...]:
    """Steps renumbered without those in which nothing runs and no move is under way."""
    busy = set()
    for index, step in enumerate(steps):
        if step.tasks or step.moves:
            busy.add(index)
        busy.update(move.due for move in step.moves)
    number = {old: new for new, old in enumerate(sorted(busy))}
    return tuple(
        Step(step.tasks, tuple(move._replace(due=number[move.due]) for move in step.moves))
        for index, step in enumerate(steps)
        if index in number
    )
