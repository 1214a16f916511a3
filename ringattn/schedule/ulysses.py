"""Schedules that deal out the heads: each rank of a group attends over the group's sequence with some heads."""

from __future__ import annotations

from ringattn.schedule.grid import grid
from ringattn.schedule.ring import nearest_divisor
from ringattn.schedule.route import OneWay
from ringattn.schedule.value import Schedule, Shape


def ulysses(shape: Shape) -> Schedule:
    """DeepSpeed Ulysses (arXiv 2309.14509): an all-to-all by heads, attention, and one back.

    Any head counts: query heads are dealt out as evenly as they go (some ranks have none past one a rank), and a key
    head goes to every rank that has a query head for it.
    """
    return grid(shape, heads=shape.world, overlap=False, name="ulysses")


def usp(shape: Shape, *, heads: int | None = None) -> Schedule:
    """USP (Fang and Zhao, arXiv 2405.07719): Ulysses in groups of `heads` neighbours, ring attention between them.

    `heads` is, unless given, the largest divisor of the number of ranks that leaves each rank a key head of its own
    and leaves a ring.
    """
    world = shape.world
    if heads is None:
        fitting = [d for d in range(1, world) if world % d == 0 and shape.key_heads % d == 0]
        heads = max(fitting, default=1)
    if heads < 1 or world % heads:
        raise ValueError(
            f"usp: heads must divide the number of ranks, got heads={heads} for {world} ranks; "
            f"the nearest that does is {nearest_divisor(world, heads)}"
        )
    return grid(shape, heads=heads, queries=world // heads, key_route=OneWay(), sum_on_the_way=True, name="usp")
