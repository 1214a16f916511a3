"""Schedules by name.

`schedules()` lists the names, `make_schedule("usp:heads=4", shape)` builds a value. A new schedule is one short
file with a function from a `Shape` to a `Schedule`, and a line here. Every schedule takes `slices` as well
(`ringattn.schedule.slices`): `make_schedule("usp:heads=4,slices=2", shape)`.
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
from ringattn.schedule.route import make_route
from ringattn.schedule.slices import sliced
from ringattn.schedule.tile import tile
from ringattn.schedule.tokenring import tokenring
from ringattn.schedule.ulysses import ulysses, usp
from ringattn.schedule.value import Schedule, Shape
from ringattn.sequence.suggest import suggest


def _grid(
    shape: Shape,
    *,
    heads: int = 1,
    queries: int = 1,
    keys: int = 1,
    query_route: str = "one",
    key_route: str = "one",
    inner: int | None = None,
    home: str = "straight",
    overlap: str = "yes",
) -> Schedule:
    """Any point of the grid: head groups x query groups x key groups, which multiply to the number of ranks.

    query_route, key_route: `one` way round; the same but for the last, reached from `back`, or `apart`, in a step of
    its own; `both` ways; `direct`; or `levels`, rings of `inner` neighbours inside.
    home: gradients of keys go `straight` home, or `along` their ring. overlap: compute while inputs arrive, `yes` or
    `no`.
    """
    for name, word, words in (("home", home, ("straight", "along")), ("overlap", overlap, ("yes", "no"))):
        if word not in words:
            raise ValueError(f"grid: {name} must be one of {', '.join(words)}, got {word!r}{suggest(word, words)}")
    return grid(
        shape,
        heads=heads,
        queries=queries,
        keys=keys,
        query_route=make_route(query_route, inner),
        key_route=make_route(key_route, inner),
        sum_on_the_way=home == "along",
        overlap=overlap == "yes",
    )


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


# The number that every schedule takes.
_SLICES = "slices"


def schedules() -> list[str]:
    """The names that `schedule=` takes; some take numbers too, as in `usp:heads=4`."""
    return sorted(_BUILDERS)


def about(name: str) -> tuple[str, tuple[str, ...]]:
    """What a named schedule does, the first sentence of its builder's docstring, and the numbers that it takes besides
    `slices`."""
    parse(name)
    builder = _BUILDERS[name]
    words = " ".join((inspect.getdoc(builder) or "").split("\n\n")[0].split())
    line = re.split(r"(?<=\.) (?=[`A-Z])", words, maxsplit=1)[0]
    return line, tuple(key for key in inspect.signature(builder).parameters if key != "shape")


def parse(spec: str) -> tuple[str, dict[str, int | str]]:
    """The name and the numbers (or words) of a schedule: `grid:heads=2,queries=4,keys=1,key_route=both`.

    Raises:
        ValueError: one of them is unknown, or not a number where one is needed.
    """
    name, _, numbers = spec.partition(":")
    if name.endswith(".py"):
        raise ValueError(
            f"a schedule in a file is for `ringattn schedules` and `ringattn compare`, got {spec!r}: elsewhere run it "
            "from Python, ringattn.SequenceParallel(schedule=value), or make it a built-in (docs/add-a-schedule.md)"
        )
    if name not in _BUILDERS:
        raise ValueError(f"unknown schedule {name!r}{suggest(name, schedules())}; there are {', '.join(schedules())}")
    parameters = inspect.signature(_BUILDERS[name]).parameters
    known = [*(key for key in parameters if key != "shape"), _SLICES]
    options: dict[str, int | str] = {}
    for part in filter(None, numbers.split(",")):
        key, _, value = part.partition("=")
        if key not in known:
            takes = f"it takes {', '.join(known)}"
            raise ValueError(f"schedule {name!r} has no number called {key!r}{suggest(key, known)}; {takes}")
        if key in parameters and parameters[key].annotation == "str":
            options[key] = value
            continue
        if not value.isdigit():
            raise ValueError(f"schedule {name!r}: {key} must be a whole number, got {value!r}")
        options[key] = int(value)
    return name, options


@lru_cache(maxsize=64)
def make_schedule(spec: str, shape: Shape) -> Schedule:
    """The schedule called `spec` for `shape`. ValueError where the name is unknown or the numbers do not fit."""
    name, options = parse(spec)
    slices = int(options.pop(_SLICES, 1))
    shape.check()
    # Millions of tuples for a large world, and none of them garbage: passes of the collector would double the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return sliced(_BUILDERS[name](shape, **options), slices, shape.query_heads // shape.key_heads)
    finally:
        if collecting:
            gc.enable()
