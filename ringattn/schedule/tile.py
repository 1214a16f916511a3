"""2-D tiles (Mesh-Attention, arXiv 2512.20968): a rank computes a rectangle of blocks."""

from __future__ import annotations

import math

from ringattn.schedule.grid import grid
from ringattn.schedule.ring import nearest_divisor
from ringattn.schedule.route import OneWay
from ringattn.schedule.value import Schedule, Shape


def tile(shape: Shape, *, rows: int | None = None) -> Schedule:
    """Ranks in `rows` rows: Q along rows, K and V along columns, results home along rows. Near square unless given.

    One row is TokenRing, and as many rows as ranks is ring attention.
    """
    rows = nearest_divisor(shape.world, math.isqrt(shape.world)) if rows is None else rows
    if rows < 1 or shape.world % rows:
        raise ValueError(
            f"tile: rows must divide the number of ranks, got rows={rows} for {shape.world} ranks; "
            f"the nearest that does is {nearest_divisor(shape.world, rows)}"
        )
    return grid(shape, queries=rows, keys=shape.world // rows, query_route=OneWay(), key_route=OneWay(), name="tile")
