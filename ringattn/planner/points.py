"""Points of the grid of schedules as values that a search can list, name and build. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ringattn.schedule.value import Shape

_ROUTES = ("one", "back", "both", "direct")

# The last of so many members reached the other way saves one hop's share of a link: past these, nothing to speak of.
_BACK_MEMBERS = 8


@dataclass(frozen=True, order=True)
class Point:
    """Head groups x query groups x key groups, a route for each side, and how gradients of keys get home.

    See `ringattn.schedule.grid.grid` for what each means; routes are named as `make_route` takes them. inner: the
    neighbours in an inner ring, for the route `levels`.
    """

    heads: int = 1
    queries: int = 1
    keys: int = 1
    query_route: str = "one"
    key_route: str = "one"
    inner: int | None = None
    home: str = "straight"
    overlap: str = "yes"

    @property
    def world(self) -> int:
        return self.heads * self.queries * self.keys

    def spec(self) -> str:
        """What `schedule=` takes: the name in the literature where there is one, else the point's numbers."""
        return self.name() or self.numbers()

    def numbers(self) -> str:
        """The point as a `grid:` schedule."""
        default = Point()
        words = [
            f"{key}={value}"
            for key, value in self.__dict__.items()
            if value is not None and (value != getattr(default, key) or key in ("heads", "queries", "keys"))
        ]
        return f"grid:{','.join(words)}"

    def name(self) -> str | None:
        """`ring`, `tokenring`, ... where the point is what the literature calls so."""
        rest = (self.query_route, self.key_route, self.home, self.overlap)
        if (self.heads, self.keys) == (1, 1):
            named = {
                ("one", "one", "along", "yes"): "ring",
                ("one", "both", "along", "yes"): "biring",
                ("one", "direct", "straight", "yes"): "allgather",
                ("one", "levels", "along", "yes"): f"doublering:inner={self.inner}",
            }
            return named.get(rest)
        if (self.heads, self.queries) == (1, 1):
            turns = {"one": "tokenring", "back": "tokenring:back=1", "apart": "tokenring:back=2"}
            return turns.get(self.query_route) if rest[1:] == ("one", "straight", "yes") else None
        if (self.queries, self.keys) == (1, 1):
            return "ulysses" if rest == ("one", "one", "straight", "no") else None
        if self.keys == 1 and rest == ("one", "one", "along", "yes"):
            return f"usp:heads={self.heads}"
        if self.heads == 1 and rest == ("one", "one", "straight", "yes"):
            return f"tile:rows={self.queries}"
        return None


def points(shape: Shape, *, hosts: int = 1) -> Iterator[Point]:
    """Every point of the grid for a shape, the named schedules among them.

    hosts: into how many hosts the ranks fall, in order; with more than one, routes of two levels are listed as well.
    Head groups past the number of query heads would leave ranks without work, and are left out.
    """
    world = shape.world
    per_host = world // hosts if world % hosts == 0 else 1
    for heads in _divisors(world):
        if heads > shape.query_heads:
            continue
        cells = world // heads
        for queries in _divisors(cells):
            keys = cells // queries
            if cells == 1:
                yield Point(heads, overlap="no" if heads > 1 else "yes")
                continue
            for query_route, query_inner in _routes(keys, hosts, per_host, queries, heads, side="query"):
                for key_route, key_inner in _routes(queries, hosts, per_host, keys, heads, side="key"):
                    if query_inner and key_inner and query_inner != key_inner:
                        continue
                    homes = ("straight",) if queries == 1 or key_route == "direct" else ("straight", "along")
                    for home in homes:
                        inner = query_inner or key_inner
                        yield Point(heads, queries, keys, query_route, key_route, inner, home)


def _routes(
    size: int, hosts: int, per_host: int, other: int, heads: int, *, side: str
) -> Iterator[tuple[str, int | None]]:
    """(route, inner) for a line of `size` cells."""
    if size == 1:
        yield "one", None
        return
    for name in _ROUTES:
        if size == 2 and name != "one":
            break
        if name == "back" and size > _BACK_MEMBERS:
            continue
        yield name, None
    if side == "query" and heads == other == 1 and 2 < size <= _BACK_MEMBERS:
        yield "apart", None
    # Neighbours on a line of queries' rows stand `heads` ranks apart, on one of keys' columns a whole row apart.
    apart = heads if side == "query" else heads * other
    inner = per_host // apart if apart and per_host % apart == 0 else 0
    if hosts > 1 and 1 < inner < size and size % inner == 0:
        yield "levels", inner


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]
