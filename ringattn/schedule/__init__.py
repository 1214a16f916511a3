"""Schedules by name.

`schedules()` lists the names, `make_schedule("usp:heads=4", shape)` builds a value. A new schedule is one short
file with a function from a `Shape` to a `Schedule`, and a line here.
"""

from __future__ import annotations

import gc
import inspect
import re
from collections.abc import Callable
from functools import lru_cache
from types import MappingProxyType

from ringattn.schedule.allgather import allgather
from ringattn.schedule.grid import grid
from ringattn.schedule.ring import biring, doublering, multiring, ring
from ringattn.schedule.tile import tile
from ringattn.schedule.tokenring import tokenring
from ringattn.schedule.ulysses import ulysses, usp
from ringattn.schedule.value import Schedule, Shape
from ringattn.sequence.layout import suggest


def _grid(shape: Shape, *, heads: int = 1, queries: int = 1, keys: int = 1) -> Schedule:
    """Any point of the grid: head groups x query groups x key groups, which multiply to the number of ranks."""
    return grid(shape, heads=heads, queries=queries, keys=keys)


_BUILDERS: MappingProxyType[str, Callable[..., Schedule]] = MappingProxyType(
    {
        "allgather": allgather,
        "biring": biring,
        "doublering": doublering,
        "grid": _grid,
        "multiring": multiring,
        "ring": ring,
        "tile": tile,
        "tokenring": tokenring,
        "ulysses": ulysses,
        "usp": usp,
    }
)


def schedules() -> list[str]:
    """The names that `schedule=` takes; some take numbers too, as in `usp:heads=4`."""
    return sorted(_BUILDERS)


def about(name: str) -> tuple[str, tuple[str, ...]]:
    """What a named schedule does, the first sentence of its builder's docstring, and the numbers that it takes."""
    parse(name)
    builder = _BUILDERS[name]
    words = " ".join((inspect.getdoc(builder) or "").split())
    line = re.split(r"(?<=\.) (?=[`A-Z])", words, maxsplit=1)[0]
    return line, tuple(key for key in inspect.signature(builder).parameters if key != "shape")


def parse(spec: str) -> tuple[str, dict[str, int]]:
    """The name and the numbers of a schedule: `grid:heads=2,queries=4,keys=1`. ValueError where one is unknown."""
    name, _, numbers = spec.partition(":")
    if name not in _BUILDERS:
        raise ValueError(f"unknown schedule {name!r}{suggest(name, schedules())}; there are {', '.join(schedules())}")
    known = [key for key in inspect.signature(_BUILDERS[name]).parameters if key != "shape"]
    options: dict[str, int] = {}
    for part in filter(None, numbers.split(",")):
        key, _, value = part.partition("=")
        if key not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise ValueError(f"schedule {name!r} has no number called {key!r}{suggest(key, known)}; {takes}")
        if not value.isdigit():
            raise ValueError(f"schedule {name!r}: {key} must be a whole number, got {value!r}")
        options[key] = int(value)
    return name, options


@lru_cache(maxsize=64)
def make_schedule(spec: str, shape: Shape) -> Schedule:
    """The schedule called `spec` for `shape`. ValueError where the name is unknown or the numbers do not fit."""
    name, options = parse(spec)
    shape.check()
    # Millions of tuples for a large world, and none of them garbage: passes of the collector would double the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return _BUILDERS[name](shape, **options)
    finally:
        if collecting:
            gc.enable()
