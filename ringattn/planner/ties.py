"""Which of the plans that are predicted to take as long is taken: the one that shares its busiest link least, and has
the fewest messages.

The simulator divides a link among its connections max-min fairly, and without loss. Real ones lose some of it where
several share a port at both of their ends (docs/validation.md, "What differs, and why"), and nothing tells how much
before it is measured. So a link's time is most certain where one connection has it to itself. Slices make more and
smaller messages, which gained less than was predicted where it was little, so they must be predicted to gain enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

# The median error of the simulator where nothing but wires counts (docs/validation.md): plans nearer than that tie.
TIE = 0.01

# Of 60 measured passes with two slices (docs/validation.md) the 38 predicted to gain at least this all gained, by 2 to
# 31 %; of the others six lost, by up to 4 %.
SLICES_GAIN = 0.05

Plan = TypeVar("Plan")


class Merit(NamedTuple):
    """What is predicted of a plan. seconds: of the whole. computed: of the slowest rank. wire: of the busiest link,
    which so many connections share. sliced: it cuts head groups into slices."""

    seconds: float
    computed: float
    wire: float
    connections: int
    sliced: bool = False

    @property
    def weighed(self) -> float:
        """Seconds to compare by."""
        return self.seconds * (1 + SLICES_GAIN) if self.sliced else self.seconds


def settled(plans: Sequence[Plan], merit: Callable[[Plan], Merit]) -> list[Plan]:
    """`plans`, given the fastest first, in the order in which they are to be taken: slices that gain too little behind
    what they cut, and ties for the first place in the order of connections.

    Only plans that their busiest link bounds are tied: computation hides how a link is shared.
    """
    plans = sorted(plans, key=lambda plan: merit(plan).weighed)
    first = merit(plans[0])
    if first.wire <= first.computed:
        return plans
    tied = [plan for plan in plans if _ties(merit(plan), first)]
    rest = [plan for plan in plans if not _ties(merit(plan), first)]
    return sorted(tied, key=lambda plan: merit(plan).connections) + rest


def _ties(other: Merit, first: Merit) -> bool:
    return other.wire > other.computed and other.weighed <= (1 + TIE) * first.weighed
