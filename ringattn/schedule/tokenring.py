"""TokenRing (arXiv 2412.20501): keys and values stay, queries travel one way, results go straight home the other way.

In the backward the query side (q, dout, lse, delta) travels in the same way and dq goes home; dk and dv are summed
where their keys are and never travel.
"""

from __future__ import annotations

from ringattn.schedule.grid import grid
from ringattn.schedule.route import make_route
from ringattn.schedule.value import Schedule, Shape

# By the number `back`.
_ROUTES = ("one", "back", "apart")


def tokenring(shape: Shape, *, back: int = 0) -> Schedule:
    """Q hop by hop around the ring; (out, lse) of each block straight home while the next one is computed.

    back: with 1 or 2 the last rank of the tour, the owner's other neighbour, has Q straight from the owner: its result
    goes home over the link on which queries travel, which then carries no more than they did. Over links between pairs
    of 4 ranks that is a quarter less time forward, and 0.7 of it backward. 1 computes with it together with what the
    tour brings last: a step less, and slower at a port that carries everything. 2 computes with it in a step of its
    own, which costs next to nothing there. Either holds two parcels of Q more.
    """
    if back not in range(len(_ROUTES)):
        raise ValueError(
            "tokenring: back is 0, all ranks by one way, or 1 or 2, the last one by the other, together with the last "
            f"but one or in a step of its own; got {back}"
        )
    return grid(shape, keys=shape.world, query_route=make_route(_ROUTES[back]), name="tokenring")
