"""TokenRing (arXiv 2412.20501): keys and values stay, queries travel one way, results go straight home the other way.

In the backward the query side (q, dout, lse, delta) travels in the same way and dq goes home; dk and dv are summed
where their keys are and never travel.
"""

from __future__ import annotations

from ringattn.schedule.grid import grid
from ringattn.schedule.route import OneWay
from ringattn.schedule.value import Schedule, Shape


def tokenring(shape: Shape) -> Schedule:
    """Q hop by hop around the ring; (out, lse) of each block straight home while the next one is computed."""
    return grid(shape, keys=shape.world, query_route=OneWay(), name="tokenring")
