"""Find the best schedule for a call on a cluster: the whole grid, every route and layout, forward and backward apart.

All points are estimated; the best of them, and every schedule that has a name, are then played in the event simulator,
which decides (ties as `ringattn.planner.ties` says). Those that leave links idle are played in slices of heads too.
Past `_PLAYED_RANKS` ranks a play takes seconds, and the estimates decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from ringattn.planner.cluster import Cluster
from ringattn.planner.costs import Workload
from ringattn.planner.estimate import Estimator
from ringattn.planner.points import Point, points
from ringattn.planner.predict import predict, shape_of
from ringattn.planner.ties import SLICES_GAIN, Merit, settled
from ringattn.schedule import make_schedule, schedules
from ringattn.schedule.ring import nearest_divisor
from ringattn.schedule.slices import most_slices
from ringattn.sequence.layout import make_layout

_PLAYED_RANKS = 64

# Points that are played besides the named ones: the estimate is within a tenth of the play for nearly all points.
_PLAYED_POINTS = 8
_NEAR = 1.25
_NEAR_LAYOUT = 1.15

# Up to so many ranks also the schedules are played that the grid does not hold (multi-ring: many small messages).
_ALL_NAMED_RANKS = 16

# Past `_PLAYED_RANKS` ranks: at so many head x query x key groups all routes are tried.
_ROUTED_POINTS = 4


@dataclass(frozen=True)
class Candidate:
    """One schedule in one direction. Times in seconds.

    schedule: what `schedule=` takes. seconds: predicted. compute: of the slowest rank, with no communication. wire:
    bytes over bandwidth of the busiest direction of a link, whose name is `lane` (None where nothing is sent).
    played: by the event simulator; estimated otherwise. connections: pairs of ranks whose messages share that link,
    where it was played.
    """

    schedule: str
    layout: str
    backward: bool
    seconds: float
    compute: float
    wire: float
    lane: str | None
    played: bool
    connections: int = 0

    @property
    def exposed(self) -> float:
        """Communication that computation does not hide."""
        return max(0.0, self.seconds - self.compute)


@dataclass(frozen=True)
class Found:
    """The candidates of one layout, the best first: for the forward and for the backward."""

    layout: str
    forward: tuple[Candidate, ...]
    backward: tuple[Candidate, ...]

    @property
    def seconds(self) -> float:
        """Of the best forward and the best backward together."""
        return self.forward[0].seconds + self.backward[0].seconds


def search(
    cluster: Cluster,
    workload: Workload,
    layouts: Sequence[str] = ("zigzag",),
    *,
    only: Callable[[Point], bool] | None = None,
    directions: Sequence[bool] = (False, True),
    play: bool = True,
) -> list[Found]:
    """What was found for each layout, the best layout first.

    workload: with any layout; the others are made for the same lengths. only: of the points, those for which it is
        true (say, those that fit in memory). directions: False for the forward, True for the backward; with one of
        them, its candidates stand for both. play: let the simulator decide, not the estimates.
    """
    estimated: dict[str, tuple[Estimator, list[list[Candidate]]]] = {}
    for name in layouts:
        estimator = Estimator(cluster, with_layout(workload, name))
        best = [min((each[place][0].seconds for _, each in estimated.values()), default=math.inf) for place in (0, -1)]
        found = [
            _estimated(estimator, name, only, backward=way, beat=_NEAR_LAYOUT * best[place])
            for place, way in zip((0, -1), directions)
        ]
        estimated[name] = estimator, found
    total = {name: sum(candidates[0].seconds for candidates in found) for name, (_, found) in estimated.items()}
    results = []
    for name, (estimator, found) in estimated.items():
        if play and estimator.world <= _PLAYED_RANKS and total[name] <= _NEAR_LAYOUT * min(total.values()):
            found = [_played(estimator, candidates, named=only is None) for candidates in found]
        results.append(Found(name, tuple(found[0]), tuple(found[-1])))
    return sorted(results, key=lambda layout: (layout.seconds, layouts.index(layout.layout)))


def with_layout(workload: Workload, name: str) -> Workload:
    """The same call in another layout."""
    queries, keys = workload.query_layout, workload.key_layout
    if queries.name == name and keys.name == name:
        return workload
    return replace(
        workload,
        query_layout=make_layout(name, queries.length, queries.world, workload.mask),
        key_layout=make_layout(name, keys.length, keys.world, workload.mask if keys.length == queries.length else None),
    )


def _played(estimator: Estimator, estimated: list[Candidate], *, named: bool) -> list[Candidate]:
    """The best of the estimated points, and every named schedule that may be as good, by the simulator's time."""
    cluster, workload, first = estimator.cluster, estimator.workload, estimated[0]
    near = [c.schedule for c in estimated if c.seconds <= _NEAR * first.seconds]
    points = _PLAYED_POINTS if estimator.world <= _ALL_NAMED_RANKS else _PLAYED_POINTS // 2
    chosen = near[:points] + [name for name in near[points:] if not name.startswith("grid")]
    if named and estimator.world <= _ALL_NAMED_RANKS:
        chosen += [name for name in named_defaults(estimator.world) if name not in chosen]

    def play(schedule: str) -> Candidate:
        return _play(cluster, workload, first.layout, schedule, backward=first.backward)

    played = sorted((play(schedule) for schedule in chosen), key=_by_time)
    if estimator.world <= _ALL_NAMED_RANKS:
        played += [play(in_slices(c.schedule)) for c in played if _may_gain(c, played[0], workload)]
    return settled(
        sorted(played, key=_by_time),
        lambda c: Merit(c.seconds, c.compute, c.wire, c.connections, c.schedule == in_slices(c.schedule)),
    )


def in_slices(schedule: str) -> str:
    """The same schedule in two slices of heads."""
    if "slices=" in schedule:
        return schedule
    return f"{schedule}{',' if ':' in schedule else ':'}slices=2"


def _may_gain(candidate: Candidate, best: Candidate, workload: Workload) -> bool:
    """Whether two slices can be made and might be the best: with all communication and computation overlapped they take
    what the slower of the two takes."""
    bound = max(candidate.wire, candidate.compute)
    if (1 + SLICES_GAIN) * bound > min(best.seconds, candidate.seconds):
        return False
    shape = shape_of(workload)
    return most_slices(make_schedule(candidate.schedule, shape), shape.query_heads // shape.key_heads) > 1


def _estimated(
    estimator: Estimator, layout: str, only: Callable[[Point], bool] | None, *, backward: bool, beat: float
) -> list[Candidate]:
    """All points by estimated time. Past `_PLAYED_RANKS` ranks, other routes are tried at the better points alone, and
    not at all in a layout that comes nowhere near `beat` seconds, what another takes and a bit."""
    hosts = len(set(estimator.cluster.hosts[: estimator.world]))
    listed = [p for p in points(shape_of(estimator.workload), hosts=hosts) if only is None or only(p)]
    if not backward:
        # How gradients get home is nothing to the forward.
        listed = [p for p in listed if p.home == "straight" or p.name()]

    def candidates(some: Iterable[Point]) -> list[tuple[Candidate, Point]]:
        found = []
        for point in some:
            made = estimator.estimate(point, backward=backward)
            lane, wire = made.lane, made.lane_seconds
            candidate = Candidate(point.spec(), layout, backward, made.seconds, made.compute, wire, lane, played=False)
            found.append((candidate, point))
        return sorted(found, key=lambda pair: _by_time(pair[0]))

    if estimator.world <= _PLAYED_RANKS:
        return [candidate for candidate, _ in candidates(listed)]
    plain = candidates(p for p in listed if p.query_route == p.key_route == "one")
    if plain[0][0].seconds > beat:
        return [candidate for candidate, _ in plain]
    better = {(p.heads, p.queries, p.keys) for _, p in plain[:_ROUTED_POINTS]}
    routed = candidates(
        p for p in listed if (p.heads, p.queries, p.keys) in better and not p.query_route == p.key_route == "one"
    )
    return sorted((candidate for candidate, _ in plain + routed), key=_by_time)


def _by_time(candidate: Candidate) -> tuple[float, bool, int, str]:
    """Of equals, the one with a name, then the one with the fewest words."""
    schedule = candidate.schedule
    return candidate.seconds, schedule.startswith("grid"), len(schedule), schedule


def named_defaults(world: int) -> list[str]:
    """The named schedules that are no points of the grid as they stand, or whose numbers are their own choice."""
    inner = nearest_divisor(world, math.isqrt(world))
    own = {"multiring": "multiring", "doublering": f"doublering:inner={inner}"}
    return [own[name] for name in schedules() if name in own and world > 2]


def timed(cluster: Cluster, workload: Workload, like: Candidate) -> Candidate:
    """The schedule of `like` for another call of the same layout, played where a search would play it."""
    if workload.query_layout.world <= _PLAYED_RANKS:
        return _play(cluster, workload, like.layout, like.schedule, backward=like.backward)
    hosts = len(set(cluster.hosts[: workload.query_layout.world]))
    point = next(point for point in points(shape_of(workload), hosts=hosts) if point.spec() == like.schedule)
    made = Estimator(cluster, workload).estimate(point, backward=like.backward)
    return replace(like, seconds=made.seconds, compute=made.compute, wire=made.lane_seconds, lane=made.lane)


def _play(cluster: Cluster, workload: Workload, layout: str, schedule: str, *, backward: bool) -> Candidate:
    made = predict(schedule, workload, cluster, backward=backward)
    wire, lane = made.wire_bound(cluster)
    return Candidate(
        schedule,
        layout,
        backward,
        made.seconds,
        max(made.computed),
        wire,
        None if lane is None else cluster.lanes[lane].name,
        played=True,
        connections=0 if lane is None else made.connections[lane],
    )
