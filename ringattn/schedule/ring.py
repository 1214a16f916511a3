"""Schedules in which queries stay and keys and values travel around rings."""

from __future__ import annotations

import math

from ringattn.schedule.grid import grid
from ringattn.schedule.route import BothWays, ManyRings, OneWay, TwoLevels
from ringattn.schedule.value import Schedule, Shape


def ring(shape: Shape) -> Schedule:
    """Ring attention (Liu et al., arXiv 2310.01889): K, V hop by hop, one way; their gradients follow them."""
    return grid(shape, queries=shape.world, key_route=OneWay(), sum_on_the_way=True, name="ring")


def biring(shape: Shape) -> Schedule:
    """Bidirectional ring: K, V both ways round, so half the steps and both directions of each link."""
    return grid(shape, queries=shape.world, key_route=BothWays(), sum_on_the_way=True, name="biring")


def doublering(shape: Shape, *, inner: int | None = None) -> Schedule:
    """Double ring (LoongTrain, arXiv 2406.18485, section 4.3): rings of `inner` neighbours, say one node, and an outer
    ring over them whose hops take as long as a whole inner round. `inner` is near the square root unless given."""
    inner = nearest_divisor(shape.world, math.isqrt(shape.world)) if inner is None else inner
    if inner < 1 or shape.world % inner:
        raise ValueError(
            f"doublering: inner must divide the number of ranks, got inner={inner} for {shape.world} ranks; "
            f"the nearest that does is {nearest_divisor(shape.world, inner)}"
        )
    route = TwoLevels(inner)
    return grid(shape, queries=shape.world, key_route=route, sum_on_the_way=True, name="doublering")


def multiring(shape: Shape, *, rings: int = 8) -> Schedule:
    """TASP (arXiv 2509.26541): K, V in slices over at most `rings` rings that share no link."""
    if rings < 1:
        raise ValueError(f"multiring: rings must be at least 1, got {rings}")
    return grid(shape, queries=shape.world, key_route=ManyRings(rings), sum_on_the_way=True, name="multiring")


def nearest_divisor(number: int, wanted: int) -> int:
    """The divisor of `number` nearest to `wanted`, the smaller of two."""
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    return min(divisors, key=lambda d: (abs(d - wanted), d))
