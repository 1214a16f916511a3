"""Time a point of the grid without playing it: for worlds of hundreds of ranks and searches over many points. No torch.

All ranks of a grid do the same at the same time, shifted: what differs between ranks is only which links their
messages cross, and how much of a block the mask shows. So a step takes as long as its slowest task, or as its busiest
link where that is longer, and steps follow one another. Against the event simulator (`ringattn.planner.simulate`),
which plays every message of every rank, this leaves out that fast ranks run ahead of slow ones; the tests hold the
two together.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ringattn.planner.cluster import Cluster
from ringattn.planner.costs import BACKWARD_FLOPS, FORWARD_FLOPS, Workload, kernel_for
from ringattn.planner.points import Point
from ringattn.schedule.build import split_heads
from ringattn.schedule.route import TwoLevels, make_route
from ringattn.schedule.value import Kind, Side
from ringattn.sequence.blocks import block_areas

Floats = NDArray[np.float64]

# Enough queries of a chunk to see how much of a block a mask shows.
_SAMPLES = 4
# So many ranks' tasks, and so many distances of results on their straight way home, stand for all.
_SAMPLED_CELLS = 64
_SAMPLED_DISTANCES = 12


@dataclass(frozen=True)
class Estimate:
    """Seconds. compute: of the slowest rank alone; wire: of the messages alone, step by step. lane: the busiest
    direction of a link, and the seconds that its bytes take; None where nothing is sent."""

    seconds: float
    compute: float
    wire: float
    lane: str | None
    lane_seconds: float

    @property
    def exposed(self) -> float:
        """What communication adds to computation."""
        return max(0.0, self.seconds - self.compute)


@dataclass(frozen=True)
class _Tour:
    """How one parcel spreads over a line, as offsets from its owner: the same for every owner.

    arrival[offset]: the step that brings it there, -1 at the owner. hops[step]: (offset from the sender, share of the
    parcel) of what moves in that step; a hop that lasts longer is spread over its steps. follow: (step,
    offset, share) of the hops that a sum of gradients makes along its chains: all but the first of each, which brings
    the parcel to where the first share is made. ends: (offset from the owner, share) of where its chains end.
    """

    arrival: NDArray[np.int64]
    hops: tuple[tuple[tuple[int, float], ...], ...]
    follow: tuple[tuple[int, int, float], ...]
    ends: tuple[tuple[int, float], ...]
    inner: int

    def shift(
        self, places: NDArray[np.int64] | int, offset: NDArray[np.int64] | int, *, back: bool = False
    ) -> NDArray[np.int64]:
        """The places at `offset` from `places` (or those from which they are at it); either may be many."""
        size = len(self.arrival)
        group, seat = np.divmod(offset, self.inner)
        groups, seats = np.divmod(places, self.inner)
        sign = -1 if back else 1
        outer = size // self.inner
        return (groups + sign * group) % outer * self.inner + (seats + sign * seat) % self.inner


@lru_cache(maxsize=256)
def _tour(name: str, inner_ring: int | None, size: int) -> _Tour:
    route = make_route(name, inner_ring)
    inner = route.inner if isinstance(route, TwoLevels) else size
    lanes = route.lanes(size)
    arrival = np.full(size, -1, dtype=np.int64)
    hops: defaultdict[int, defaultdict[int, float]] = defaultdict(lambda: defaultdict(float))
    ends: defaultdict[int, float] = defaultdict(float)
    follow: list[tuple[int, int, float]] = []
    for lane in range(lanes):
        for chain in route.chains(range(size), 0, lane):
            ends[chain[-1].target] += 1 / lanes
            for place, (step, due, source, target) in enumerate(chain):
                arrival[target] = max(arrival[target], due)
                groups, seats = target // inner - source // inner, target % inner - source % inner
                offset = groups % (size // inner) * inner + seats % inner
                if place:
                    follow.append((step, offset, 1 / lanes))
                for during in range(step, due + 1):
                    hops[during][offset] += 1 / lanes / (due + 1 - step)
    last = max(hops, default=-1)
    moved = tuple(tuple(sorted(hops[step].items())) for step in range(last + 1))
    return _Tour(arrival, moved, tuple(follow), tuple(sorted(ends.items())), inner)


class Estimator:
    """Estimates points for one attention call on one cluster."""

    def __init__(self, cluster: Cluster, workload: Workload) -> None:
        self.cluster, self.workload = cluster, workload
        self.world = workload.query_layout.world
        self.bandwidth = np.asarray([lane.bandwidth for lane in cluster.lanes])
        self.kernel = kernel_for(cluster.accelerator, workload.dtype)
        self._loads: dict[tuple[object, ...], Floats] = {}
        self.areas, self.cut = self._areas_by_rank()

    def _areas_by_rank(self) -> tuple[Floats, NDArray[np.bool_]]:
        """[query rank, key rank]: visible pairs, and whether a diagonal cuts the block."""
        layout, keys = self.workload.query_layout, self.workload.key_layout
        areas = block_areas(self.workload.mask, layout, keys, samples=_SAMPLES)
        whole = np.outer([len(c) for c in layout.chunks], [len(c) for c in keys.chunks])
        partly = (areas > 0) & (areas < whole * (1 - 1e-9))
        split = (self.world, layout.chunks_per_rank, self.world, keys.chunks_per_rank)
        cut: NDArray[np.bool_] = np.asarray(partly.reshape(split).any(axis=(1, 3)))
        return areas.reshape(split).sum(axis=(1, 3)), cut

    def estimate(self, point: Point, *, backward: bool) -> Estimate:
        """The time of one pass at `point`."""
        return _Pass(self, point, backward).estimate()

    def load(self, point: Point, side: Side, tour: _Tour, offset: int) -> Floats:
        """[lanes]: messages on each lane when every rank sends one to the rank at `offset` on its line."""
        key = (point.heads, point.queries, point.keys, side, offset, tour.inner)
        found = self._loads.get(key)
        if found is None:
            places = np.arange(len(tour.arrival), dtype=np.int64)
            crossed: list[int] = []
            for source, target in zip(places.tolist(), tour.shift(places, offset).tolist()):
                for here, there in zip(_ranks(point, side, source), _ranks(point, side, target)):
                    if here != there:
                        crossed += self.cluster.way(here, there).lanes
            found = self._loads[key] = self._counted(crossed)
        return found

    def _counted(self, crossed: list[int]) -> Floats:
        return np.bincount(np.asarray(crossed, dtype=np.int64), minlength=len(self.bandwidth)).astype(np.float64)

    def cells_load(self, point: Point) -> Floats:
        """[lanes]: messages on each lane when every rank sends one to each other rank of its cell."""
        key = (point.heads, "cells")
        found = self._loads.get(key)
        if found is None:
            crossed: list[int] = []
            for first in range(0, self.world, point.heads):
                for here in range(first, first + point.heads):
                    for there in range(first, first + point.heads):
                        if here != there:
                            crossed += self.cluster.way(here, there).lanes
            found = self._loads[key] = self._counted(crossed)
        return found


def _ranks(point: Point, side: Side, place: int) -> range | list[int]:
    """The ranks at one place of every line of a side: rank (x, y, h) is (x * keys + y) * heads + h."""
    heads, queries, keys = point.heads, point.queries, point.keys
    if side is Side.QUERY:
        return [(x * keys + place) * heads + h for x in range(queries) for h in range(heads)]
    return range(place * keys * heads, (place + 1) * keys * heads)


class _Pass:
    """One direction at one point."""

    def __init__(self, estimator: Estimator, point: Point, backward: bool) -> None:
        self.estimator, self.point, self.backward = estimator, point, backward
        self.cluster, self.workload = estimator.cluster, estimator.workload
        self.query_tour = _tour(point.query_route, point.inner, point.keys)
        self.key_tour = _tour(point.key_route, point.inner, point.queries)
        self.offset = int(point.heads > 1)
        # The largest head group is the slowest.
        groups = split_heads(self.workload.tensors.query_heads, point.heads)
        self.group = max(groups, key=lambda g: g[1] - g[0])
        layout = self.workload.query_layout
        self.rows = max(layout.local_length(rank) for rank in range(layout.world)) * point.heads

    def bytes(self, kind: Kind, side: Side) -> float:
        """Of what one cell's chunks come to for one head group."""
        return self.rows * self.workload.tensors.row_bytes(kind, side, self.group, backward=self.backward)

    def estimate(self) -> Estimate:
        busy = self.computing()
        self.last_busy = len(busy) - 1
        # Results leave behind their step's tasks: with the next step's parcels where tasks take long, else beside
        # those of their own step.
        later = self.timed(busy, delay=1)
        return self.timed(busy, delay=0) if later.wire > later.compute else later

    def timed(self, busy: Floats, *, delay: int) -> Estimate:
        """With results on their way `delay` steps after they are computed."""
        steps: defaultdict[int, Floats] = defaultdict(lambda: np.zeros(len(self.estimator.bandwidth)))
        latency = self.messages(steps, delay)
        last = max([len(busy) - 1, *steps])
        overhead = self.cluster.overhead
        seconds = wire = compute = 0.0
        total = np.zeros(len(self.estimator.bandwidth))
        for step in range(last + 1):
            working = float(busy[step]) if step < len(busy) else 0.0
            moving = 0.0
            if step in steps:
                total += steps[step]
                moving = float((steps[step] / self.estimator.bandwidth).max())
                if moving:
                    moving += latency + overhead.rendezvous
            fixed = overhead.step + (2 * overhead.message if moving else 0.0)
            seconds += max(working, moving) + fixed
            wire += moving
            compute += working
        lane = int((total / self.estimator.bandwidth).argmax()) if total.any() else None
        return Estimate(
            seconds,
            compute,
            wire,
            None if lane is None else self.cluster.lanes[lane].name,
            0.0 if lane is None else float(total[lane] / self.estimator.bandwidth[lane]),
        )

    def computing(self) -> Floats:
        """[steps]: seconds that the slowest rank computes and merges in each."""
        point, tensors = self.point, self.workload.tensors
        first, last = self.query_tour.arrival, self.key_tour.arrival
        # A block is computed in the step after both its parcels have come; step 0 is that of the own block.
        when = np.maximum(first[:, None], last[None]) + 1 + self.offset
        if point.overlap == "no":
            when[:] = when.max()
        if self.offset:
            # Only what is owned is there before heads are exchanged; it is computed with the rest of its cell.
            when = np.maximum(when, 1)
        steps = int(when.max()) + 1
        scores = self.scores_by_cell()
        cells = point.queries * point.keys
        chosen = np.unique(np.linspace(0, cells - 1, min(cells, _SAMPLED_CELLS)).astype(np.int64))
        most = np.zeros(steps)
        for cell in chosen:
            x, y = divmod(int(cell), point.keys)
            sources = self.query_tour.shift(y, np.arange(point.keys), back=True)
            owners = self.key_tour.shift(x, np.arange(point.queries), back=True)
            block = scores[np.ix_(x * point.keys + sources, owners * point.keys + y)]
            most = np.maximum(most, np.bincount(when.ravel(), weights=block.ravel(), minlength=steps))
        flops = BACKWARD_FLOPS if self.backward else FORWARD_FLOPS
        flops *= tensors.head_dim * tensors.batch * (self.group[1] - self.group[0])
        rate = self.estimator.kernel.flops(self.rows, backward=self.backward)
        seconds = most * flops / rate + (most > 0) * self.estimator.kernel.launch
        return seconds + self.merging(when, most > 0)

    def merging(self, when: NDArray[np.int64], active: NDArray[np.bool_]) -> Floats:
        """[steps]: seconds that results are added to sums, here and at home."""
        passes = self.workload.merge_passes / self.cluster.accelerator.memory_bandwidth
        seconds = np.zeros(len(active))
        # How many parcels of a side are computed with in each step.
        involved = [
            np.bincount(np.concatenate([np.unique(line) for line in lines]), minlength=len(active))
            for lines in (when, when.T)
        ]
        for step in range(len(active)):
            # What gets home from another rank is added there once more.
            size = float(involved[0][step]) * self.bytes(Kind.PARTIAL, Side.QUERY)
            size *= 1 + ((self.point.keys > 1 and step > self.offset) or self.offset)
            if self.backward:
                keys = float(involved[1][step]) * self.bytes(Kind.PARTIAL, Side.KEY)
                size += keys * (1 + ((self.point.queries > 1 and step > self.offset) or self.offset))
            seconds[step] = size * passes * active[step]
        return seconds

    def scores_by_cell(self) -> Floats:
        """[cells, cells]: the visible pairs of what cells own, heads apart, each counted by what it costs: all that one
        call computes is slower where a diagonal cuts it."""
        cells, heads = self.point.queries * self.point.keys, self.point.heads
        split = (cells, heads, cells, heads)
        areas = self.estimator.areas.reshape(split).sum(axis=(1, 3))
        cut: NDArray[np.bool_] = np.asarray(self.estimator.cut.reshape(split).any(axis=(1, 3)))
        if self.point.overlap == "no":
            cut[:] = cut.any()
        return np.where(cut, areas / self.estimator.kernel.causal, areas)

    def messages(self, steps: defaultdict[int, Floats], delay: int) -> float:
        """Fills [lanes] bytes for each step; returns the longest latency of a way."""
        point, offset = self.point, self.offset
        latency = 0.0
        if point.heads > 1:
            owned = sum(self.bytes(Kind.PARCEL, side) for side in Side) / point.heads
            steps[0] += owned * self.estimator.cells_load(point)
            latency = self.latency(0, min(point.heads, self.estimator.world) - 1)
        for side, tour in ((Side.QUERY, self.query_tour), (Side.KEY, self.key_tour)):
            size = self.bytes(Kind.PARCEL, side)
            for step, hops in enumerate(tour.hops):
                for rank_offset, share, weight in _sampled([(o, s) for o, s in hops]):
                    load = self.estimator.load(point, side, tour, rank_offset)
                    steps[step + offset] += size * share * weight * load
            if len(tour.arrival) > 1:
                latency = max(latency, self.latency(0, self.estimator.world - 1))
        self.results(steps, Side.QUERY, self.query_tour, self.key_tour, delay, along=False)
        if self.backward:
            self.results(steps, Side.KEY, self.key_tour, self.query_tour, delay, along=point.home == "along")
        return latency

    def results(
        self,
        steps: defaultdict[int, Floats],
        side: Side,
        tour: _Tour,
        other: _Tour,
        delay: int,
        *,
        along: bool,
    ) -> None:
        point, size = self.point, self.bytes(Kind.PARTIAL, side)
        # A result is whole once the last parcel of the other side has met its own.
        ready = np.maximum(tour.arrival, other.arrival.max()) + 1 + self.offset
        if point.heads > 1:
            # Each rank of the own cell holds heads of the others' chunks.
            steps[self.leaves(int(ready[0]), delay)] += size / point.heads * self.estimator.cells_load(point)
        if along and len(tour.hops):
            # The same tour, one step behind, and home from the end of it.
            for step, rank_offset, share in tour.follow:
                load = self.estimator.load(point, side, tour, rank_offset)
                steps[step + int(ready[0]) + 1] += size * share * load
            end = int(ready.max()) + 1
            for rank_offset, share in tour.ends:
                steps[end] += size * share * self.estimator.load(point, side, tour, _reverse(tour, rank_offset))
            return
        away = [(int(step), rank_offset) for rank_offset, step in enumerate(ready) if rank_offset]
        # Most distances are alike on a cluster of like hosts: some of them stand for the rest.
        kept = np.unique(np.linspace(0, len(away) - 1, min(len(away), _SAMPLED_DISTANCES)).astype(np.int64))
        for position, (step, _) in enumerate(away):
            nearest = int(kept[np.abs(kept - position).argmin()])
            load = self.estimator.load(point, side, tour, _reverse(tour, away[nearest][1]))
            steps[self.leaves(step, delay)] += size * load

    def leaves(self, step: int, delay: int) -> int:
        """The step in which a result made in `step` is under way; nothing is computed beside the last ones."""
        return step + max(delay, int(step >= self.last_busy))

    def latency(self, here: int, there: int) -> float:
        return self.cluster.way(here, there).latency if here != there else 0.0


def _reverse(tour: _Tour, offset: int) -> int:
    """The offset that leads back."""
    group, seat = divmod(offset, tour.inner)
    return -group % (len(tour.arrival) // tour.inner) * tour.inner + -seat % tour.inner


def _sampled(hops: list[tuple[int, float]]) -> list[tuple[int, float, float]]:
    """(offset, share, weight): where a parcel goes to everyone at once, some of the offsets stand for the rest."""
    if len(hops) <= 2 * _SAMPLED_DISTANCES:
        return [(offset, share, 1.0) for offset, share in hops]
    chosen = np.unique(np.linspace(0, len(hops) - 1, 2 * _SAMPLED_DISTANCES).astype(np.int64))
    return [(*hops[index], len(hops) / len(chosen)) for index in chosen]
