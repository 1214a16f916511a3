"""Which of the plans that are predicted to take as long is taken: the one that shares its busiest link least.

The simulator divides a link among its connections max-min fairly, and without loss. Real ones lose some of it where
several share a port at both of their ends (docs/validation.md, "What differs, and why"), and nothing tells how much
before it is measured. So a link's time is most certain where one connection has it to itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

# The median error of the simulator where nothing but wires counts (docs/validation.md): plans nearer than that tie.
TIE = 0.01

Plan = TypeVar("Plan")


class Merit(NamedTuple):
    """What is predicted of a plan. seconds: of the whole. computed: of the slowest rank. wire: of the busiest link,
    which so many connections share."""

    seconds: float
    computed: float
    wire: float
    connections: int


def settled(plans: Sequence[Plan], merit: Callable[[Plan], Merit]) -> list[Plan]:
    """`plans`, the fastest first, with the ties for the first place in the order of connections.

    Only plans that their busiest link bounds are put ahead or behind: computation hides how a link is shared.
    """
    first = merit(plans[0])
    if first.wire <= first.computed:
        return list(plans)
    tied = [plan for plan in plans if _ties(merit(plan), first)]
    rest = [plan for plan in plans if not _ties(merit(plan), first)]
    return sorted(tied, key=lambda plan: merit(plan).connections) + rest


def _ties(other: Merit, first: Merit) -> bool:
    return other.wire > other.computed and other.seconds <= (1 + TIE) * first.seconds
