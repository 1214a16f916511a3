"""All-gather attention (Llama 3, arXiv 2407.21783, section 3.3.2): everyone gets all K, V at once."""

from __future__ import annotations

from ringattn.schedule.grid import grid
from ringattn.schedule.route import Direct
from ringattn.schedule.value import Schedule, Shape


def allgather(shape: Shape) -> Schedule:
    """K, V straight from each owner to all others while the own block is computed, then all the rest in one task."""
    return grid(shape, queries=shape.world, key_route=Direct(), name="allgather")
