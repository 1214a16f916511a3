"""What routes of states (`ringattn.schedule.states`) take on a described cluster, and which one to choose. No torch.

The simulator plays a route as it plays a schedule: same links, same overheads. A task takes one slice of the state past
a stretch: the transition's product where it is a matrix, and otherwise element-wise work at the rate of memory (read
the state and the addition, write the state); a message is packed at that rate (read, write).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ringattn.planner.cluster import Accelerator, Cluster
from ringattn.planner.costs import PlayedStep
from ringattn.planner.simulate import Simulation, simulate
from ringattn.schedule.messages import Envelope
from ringattn.schedule.states import (
    Advance,
    Carry,
    Join,
    StateRoute,
    StateSizes,
    Transition,
    fitted_route,
    make_state_route,
    state_messages,
    verify_state_route,
)
from ringattn.schedule.value import Kind
from ringattn.sequence.halo import HaloRows, halo_rows
from ringattn.sequence.layout import Layout
from ringattn.sequence.stretches import stretches

_ADVANCE_PASSES = 3
_PACK_PASSES = 2

# Into how many slices a pipeline may be cut, for a choice.
_SLICES = (2, 4, 8, 16, 32)

# An all-gather over more ranks is more messages than a person wants to wait for.
PLAYED_RANKS = 128

# Up to so many ranks a choice without a person waiting tries it too.
_GATHERED_RANKS = 32

# Times this near to the best are as good.
_NEAR = 1.01


@dataclass(frozen=True)
class StateCosts:
    """Of one route in one direction: what the simulator asks (`ringattn.planner.simulate.Played`)."""

    route: StateRoute
    sizes: StateSizes
    accelerator: Accelerator
    backward: bool

    @property
    def name(self) -> str:
        return self.route.name

    @property
    def world(self) -> int:
        return self.route.world

    def steps(self) -> Iterator[PlayedStep]:
        """A step's messages leave once its tasks are done."""
        for index, step in enumerate(self.route.steps):
            found: list[tuple[Envelope, int, list[Any]]] = []
            for (source, target), moves in state_messages(step).items():
                size = sum(self.sizes.carried_bytes(move, self.route.slices) for move in moves)
                found.append((Envelope(True, source, target, Kind.PARCEL, index), size, [*moves]))
            yield PlayedStep(found, step.tasks)

    def task(self, task: Advance | Join) -> tuple[float, float]:
        """Seconds to take a slice of the state past a stretch, or to join two effects: their transitions are multiplied
        too. Nothing is merged."""
        if isinstance(task, Join):
            size = self.sizes.state_bytes() + self.sizes.transition_bytes()
        else:
            size = self.sizes.state_bytes(self.route.slices, task.slice)
        seconds = _ADVANCE_PASSES * size / self.accelerator.memory_bandwidth
        if self.sizes.transition is Transition.DENSE:
            flops = 2 * self.sizes.key_dim * size / self.sizes.item_bytes
            rates = self.accelerator.matmul
            seconds += flops / rates.get("float32", max(rates.values())) if rates else 0.0
        return seconds, 0.0

    def merge(self, result_bytes: float) -> float:
        return 0.0

    def pack(self, moves: Sequence[Carry]) -> float:
        """Seconds to pack what leaves; what goes to several ranks is packed once."""
        once = {(move.kind, move.stretch, move.slice, move.last): move for move in moves}.values()
        size = sum(self.sizes.carried_bytes(move, self.route.slices) for move in once)
        return _PACK_PASSES * size / self.accelerator.memory_bandwidth


def predict_states(
    route: str, layout: Layout, sizes: StateSizes, cluster: Cluster, *, backward: bool, record: bool = False
) -> Simulation:
    """Simulate one direction of a route on the first ranks of `cluster`; the states alone, with nothing beside them.

    Raises:
        ValueError: no such route, more slices than the state has, a layout that is not made of runs, too few ranks.
    """
    holders = tuple(stretch.rank for stretch in stretches(layout))
    fitted = fitted_route(route, sizes.heads, sizes.value_dim)
    value = make_state_route(fitted, layout.world, holders[::-1] if backward else holders)
    return simulate(StateCosts(value, sizes, cluster.accelerator, backward), cluster, record=record)


@dataclass(frozen=True)
class HaloCosts:
    """Of the exchange of a short convolution's halo in one direction: one step, the rows of `halo_rows` or their
    gradients. row_bytes: of a token's channels."""

    layout: Layout
    width: int
    row_bytes: int
    accelerator: Accelerator
    backward: bool

    name = "halo"

    @property
    def world(self) -> int:
        return self.layout.world

    def steps(self) -> Iterator[PlayedStep]:
        found: list[tuple[Envelope, int, list[Any]]] = []
        for move in halo_rows(self.layout, self.width):
            if move.source != move.target:
                ends = (move.target, move.source) if self.backward else (move.source, move.target)
                found.append((Envelope(True, *ends, Kind.PARCEL, 0), self._bytes(move), [move]))
        yield PlayedStep(found, ())

    def _bytes(self, move: HaloRows) -> int:
        return len(move.taken) * self.row_bytes

    def task(self, task: Any) -> tuple[float, float]:
        return 0.0, 0.0

    def merge(self, result_bytes: float) -> float:
        return 0.0

    def pack(self, moves: Sequence[HaloRows]) -> float:
        return _PACK_PASSES * sum(map(self._bytes, moves)) / self.accelerator.memory_bandwidth


def halo_seconds(layout: Layout, width: int, row_bytes: int, cluster: Cluster) -> tuple[float, float]:
    """Forward and backward of one convolution of `width` taps, played; 0 where nothing travels."""
    if layout.world == 1 or width == 1:
        return 0.0, 0.0
    forward, backward = (
        simulate(HaloCosts(layout, width, row_bytes, cluster.accelerator, way), cluster).seconds
        for way in (False, True)
    )
    return forward, backward


@dataclass(frozen=True)
class RouteCandidate:
    """One route for one layer. forward, backward: predicted seconds of the states alone. lane: the busiest direction of
    a link in the forward (None where nothing is sent), and wire: the seconds that its bytes take. steps: exchanges that
    follow each other in the forward. sent, received: the most bytes of any rank in the forward; what was received is
    held until the pass ends."""

    route: str
    forward: float
    backward: float
    lane: str | None
    wire: float
    steps: int
    sent: int
    received: int

    @property
    def seconds(self) -> float:
        return self.forward + self.backward


@lru_cache(maxsize=64)
def choose_route(layout: Layout, sizes: StateSizes, cluster: Cluster) -> str:
    """What `route=auto` stands for: the fastest route, forward and backward together. Over many ranks an all-gather is
    not tried, which sends and holds most there."""
    return likely_routes(layout, sizes, cluster)[0].route


def likely_routes(layout: Layout, sizes: StateSizes, cluster: Cluster) -> list[RouteCandidate]:
    """`rank_routes` of those that may be chosen: over many ranks an all-gather and half of the pipelines are not
    tried."""
    names = None if layout.world <= _GATHERED_RANKS else ["ring", "scan", *_pipelines(sizes)[1::2]]
    return rank_routes(layout, sizes, cluster, names=names)


def check_played(world: int) -> None:
    """ValueError where a play takes longer than a person waits."""
    if world > PLAYED_RANKS:
        raise ValueError(
            f"routes of states are played for up to {PLAYED_RANKS} ranks that share a sequence, got {world}: "
            f"ask for sequence_parallel={PLAYED_RANKS} or fewer"
        )


def _pipelines(sizes: StateSizes) -> list[str]:
    return [f"pipeline:slices={slices}" for slices in _SLICES if slices <= max(sizes.heads, sizes.value_dim)]


def rank_routes(
    layout: Layout, sizes: StateSizes, cluster: Cluster, *, names: Sequence[str] | None = None
) -> list[RouteCandidate]:
    """The routes named, or all with pipelines of several slices, the fastest first; of those within a percent of it the
    one with the fewest steps, which depends least on what the description leaves out.

    Raises:
        ValueError: more ranks than a play takes seconds for.
    """
    check_played(layout.world)
    holders = tuple(stretch.rank for stretch in stretches(layout))
    found = []
    for name in names or ("allgather", "ring", "scan", *_pipelines(sizes)):
        forward, backward = (predict_states(name, layout, sizes, cluster, backward=way) for way in (False, True))
        wire, lane = forward.wire_bound(cluster)
        route = make_state_route(name, layout.world, holders)
        traffic = verify_state_route(route, sizes)
        found.append(
            RouteCandidate(
                name,
                forward.seconds,
                backward.seconds,
                None if lane is None else cluster.lanes[lane].name,
                wire,
                sum(bool(step.moves) for step in route.steps),
                max(traffic.sent),
                max(traffic.received),
            )
        )
    near = _NEAR * min(candidate.seconds for candidate in found)
    return sorted(found, key=lambda c: (c.seconds > near, c.steps if c.seconds <= near else 0, c.seconds))
