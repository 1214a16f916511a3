"""TokenRing (arXiv 2412.20501): keys and values stay, queries travel one way, results go straight home the other way.

In the backward the query side (q, dout, lse, delta) travels in the same way and dq goes home; dk and dv are summed
where their keys are and never travel.
"""

from __future__ import annotations

from ringattn.schedule.grid import grid
from ringattn.schedule.route import OneWay, OneWayAndBack
from ringattn.schedule.value import Schedule, Shape


def tokenring(shape: Shape, *, back: int = 0) -> Schedule:
    """Q hop by hop around the ring; (out, lse) of each block straight home while the next one is computed.

    back: 1 has the last rank of the tour, the owner's other neighbour, reached straight from the owner: its result goes
    home over the link on which queries travel, which then carries no more than they did. Over links between pairs of 4
    ranks that is a quarter less time forward, and 0.7 of it backward; over one port a rank it changes nothing.
    """
    if back not in (0, 1):
        raise ValueError(f"tokenring: back is 0, all ranks by one way, or 1, the last one by the other, got {back}")
    route = OneWayAndBack() if back else OneWay()
    return grid(shape, keys=shape.world, query_route=route, name="tokenring")
