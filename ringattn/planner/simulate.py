"""Time a schedule, or a route of states, on a described cluster, event by event. Pure Python, deterministic.

Each rank goes through its steps as the executor does: it posts the messages of a step, computes its tasks, waits for
what is due, adds the results that came. A message moves once both ends have posted it and those from the same rank to
the same rank before it are there: they share a connection (gloo's pair of sockets, NCCL's stream), which carries one
behind another. It moves over every link on its way; links are shared max-min fairly: no message gets more unless one
that has no more than it gets less (Bertsekas and Gallager, Data Networks, section 6.5.2), which is what many long TCP
or RDMA flows come to.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ringattn.planner.cluster import Cluster
from ringattn.planner.costs import PlayedStep
from ringattn.planner.timeline import Event, RankTimeline
from ringattn.schedule.value import Kind

# Events closer than this are one: float rounding must not split what symmetry makes simultaneous. Relative.
_TOGETHER = 1e-9


class Played(Protocol):
    """What the simulator asks of what it plays: its steps, and what is in them in seconds (`Costs`, `StateCosts`)."""

    @property
    def name(self) -> str: ...

    @property
    def world(self) -> int: ...

    @property
    def backward(self) -> bool: ...

    def steps(self) -> Iterator[PlayedStep]: ...

    def task(self, task: Any) -> tuple[float, float]: ...

    def merge(self, result_bytes: float) -> float: ...

    def pack(self, moves: Sequence[Any]) -> float: ...


@dataclass(frozen=True)
class Simulation:
    """Times in seconds.

    seconds: until the last rank is done. computed, waited: of each rank: its tasks and merges; its waits with nothing
    to do. loads: bytes on each lane of the cluster, by number, where there are any. connections: pairs of ranks, from
    one to the other, whose messages cross it. timelines: empty where they were not asked for.
    """

    seconds: float
    computed: tuple[float, ...]
    waited: tuple[float, ...]
    loads: dict[int, int]
    connections: dict[int, int]
    timelines: tuple[RankTimeline, ...] = ()

    def wire_bound(self, cluster: Cluster) -> tuple[float, int | None]:
        """Bytes over bandwidth of the busiest lane, and its number; 0 and None where nothing is sent."""
        times = {lane: load / cluster.lanes[lane].bandwidth for lane, load in self.loads.items()}
        busiest = max(times, key=lambda lane: (times[lane], -lane), default=None)
        return (0.0, None) if busiest is None else (times[busiest], busiest)


def simulate(costs: Played, cluster: Cluster, *, record: bool = False) -> Simulation:
    """Run what `costs` is of on the first ranks of `cluster`. record: keep the timelines.

    Raises:
        ValueError: the cluster has fewer ranks than the schedule, or a rank cannot be reached.
    """
    if cluster.world < costs.world:
        raise ValueError(
            f"schedule {costs.name!r} is for {costs.world} ranks, but cluster {cluster.name!r} has "
            f"{cluster.world}; describe more hosts, or use fewer ranks"
        )
    return _Play(costs, cluster, record).run()


@dataclass(eq=False)
class _Message:
    """A message as `ringattn.schedule.messages` bundles them, and how far it is."""

    source: int
    target: int
    kind: Kind
    step: int
    due: int
    late: bool
    bytes: int = 0
    moves: list[Any] = field(default_factory=list)
    posted: int = 0
    began: float = 0.0
    done: float | None = None
    waiting: int | None = None
    rate: float = 0.0
    left: float = 0.0
    lanes: tuple[int, ...] = ()


@dataclass(eq=False)
class _RankStep:
    """What one rank does in one step."""

    posts: list[_Message] = field(default_factory=list)
    tasks: list[Any] = field(default_factory=list)
    arrivals: list[_Message] = field(default_factory=list)
    departures: list[_Message] = field(default_factory=list)


class _Play:
    def __init__(self, costs: Played, cluster: Cluster, record: bool) -> None:
        self.costs, self.cluster, self.record = costs, cluster, record
        self.direction = "backward" if costs.backward else "forward"
        world = costs.world
        self.now = 0.0
        self.events: list[tuple[float, int, int | _Message]] = []
        self.order = 0
        self.flows: dict[_Message, None] = {}
        self.connections: defaultdict[tuple[int, int], deque[_Message]] = defaultdict(deque)
        self.changed = False
        self.stamp = 0.0
        self.recorded: list[list[Event]] = [[] for _ in range(world)]
        self.computed, self.waited = [0.0] * world, [0.0] * world
        self.finished = [0.0] * world
        self.loads: defaultdict[int, int] = defaultdict(int)
        self.pairs: defaultdict[int, set[tuple[int, int]]] = defaultdict(set)
        self.steps = self._steps()

    def _steps(self) -> list[list[_RankStep]]:
        """[rank][step], up to the last step in which this direction does anything."""
        played = list(self.costs.steps())
        steps = [[_RankStep() for _ in played] for _ in range(self.costs.world)]
        last = -1
        for index, step in enumerate(played):
            for (late, source, target, kind, due), size, moves in step.messages:
                if not size:
                    continue
                message = _Message(source, target, kind, index, due, late, size, moves)
                way = self.cluster.way(source, target)
                message.lanes, message.left = way.lanes, message.bytes
                for lane in way.lanes:
                    self.loads[lane] += message.bytes
                    self.pairs[lane].add((source, target))
                for rank in (target, source):
                    steps[rank][index].posts.append(message)
                steps[target][due].arrivals.append(message)
                steps[source][due].departures.append(message)
                last = max(last, due)
            for task in step.tasks:
                steps[task.rank][index].tasks.append(task)
            if step.tasks:
                last = max(last, index)
        return [of_rank[: last + 1] for of_rank in steps]

    def run(self) -> Simulation:
        ranks = [self._rank(rank) for rank in range(self.costs.world)]
        for rank in range(len(ranks)):
            self._at(0.0, rank)
        while self.events or self.flows:
            self._next_instant(ranks)
        if any(next(rank, None) is not None for rank in ranks):
            raise AssertionError("ranks wait for each other: the schedule was not verified")
        return Simulation(
            max(self.finished),
            tuple(self.computed),
            tuple(self.waited),
            dict(self.loads),
            {lane: len(pairs) for lane, pairs in self.pairs.items()},
            tuple(RankTimeline(rank, tuple(sorted(e, key=lambda x: x.stop))) for rank, e in enumerate(self.recorded))
            if self.record
            else (),
        )

    def _at(self, time: float, what: int | _Message) -> None:
        self.order += 1
        heapq.heappush(self.events, (time, self.order, what))

    def _next_instant(self, ranks: list[Iterator[_Message | None]]) -> None:
        """Go to the next time at which anything happens, and let all that happens then happen."""
        time = self.events[0][0] if self.events else float("inf")
        ends = self.stamp + min((flow.left / flow.rate for flow in self.flows), default=float("inf"))
        self.now = max(self.now, min(time, ends))
        soon = self.now * (1 + _TOGETHER) + 1e-15
        if ends <= soon:
            self._advance()
            done = [flow for flow in self.flows if flow.left <= flow.rate * (soon - self.now) + 1e-6]
            for flow in done:
                self._arrive(flow)
        while self.events and self.events[0][0] <= soon:
            _, _, what = heapq.heappop(self.events)
            if isinstance(what, _Message):
                waiting = self.connections[what.source, what.target]
                waiting.append(what)
                if len(waiting) == 1:
                    self._move(what)
            else:
                self._go_on(what, ranks[what])
        if self.changed:
            self._advance()
            self._share()
            self.changed = False

    def _go_on(self, rank: int, steps: Iterator[_Message | None]) -> None:
        """Let a rank run until it has to wait for a message."""
        for waited_for in steps:
            if waited_for is None:
                return
            if waited_for.done is None:
                # Only its two ends wait for a message; who comes second finds it below.
                waited_for.waiting = rank if waited_for.waiting is None else -1
                return

    def _move(self, message: _Message) -> None:
        self._advance()
        self.flows[message] = None
        message.began = self.now
        self.changed = True

    def _arrive(self, message: _Message) -> None:
        del self.flows[message]
        self.changed = True
        message.done = self.now
        behind = self.connections[message.source, message.target]
        behind.popleft()
        if behind:
            self._move(behind[0])
        if self.record:
            for rank, peer, kind in (
                (message.source, message.target, "send"),
                (message.target, message.source, "receive"),
            ):
                self.recorded[rank].append(
                    Event(kind, self.direction, message.step, message.began, self.now, peer, message.bytes)
                )
        if message.waiting is not None:
            both = (message.source, message.target)
            for rank in both if message.waiting == -1 else (message.waiting,):
                self._at(self.now, rank)

    def _rank(self, rank: int) -> Iterator[_Message | None]:
        """One rank's run. Yields None when it has made an event to be woken at, or the message that it waits for."""
        overhead = self.cluster.overhead
        for index, step in enumerate(self.steps[rank]):
            yield from self._post(rank, index, step, overhead.step, late=False)
            for task in step.tasks:
                compute, merge = self.costs.task(task)
                if compute:
                    yield from self._busy(rank, "compute", index, compute)
                if merge:
                    yield from self._busy(rank, "merge", index, merge)
            yield from self._post(rank, index, step, 0.0, late=True)
            for message in step.arrivals:
                yield from self._wait(rank, index, message, message.source)
                if message.kind is Kind.PARTIAL:
                    yield from self._busy(rank, "merge", index, self.costs.merge(message.bytes))
            for message in step.departures:
                yield from self._wait(rank, index, message, message.target)
        self.finished[rank] = self.now

    def _post(self, rank: int, index: int, step: _RankStep, seconds: float, *, late: bool) -> Iterator[_Message | None]:
        posts = [message for message in step.posts if message.late is late]
        overhead = self.cluster.overhead
        leaving = [move for message in posts if message.source == rank for move in message.moves]
        seconds += overhead.message * len(posts) + self.costs.pack(leaving)
        if seconds:
            yield from self._busy(rank, "post", index, seconds)
        for message in posts:
            message.posted += 1
            if message.posted == 2:
                way = self.cluster.way(message.source, message.target)
                self._at(self.now + way.latency + overhead.rendezvous, message)

    def _busy(self, rank: int, kind: str, index: int, seconds: float) -> Iterator[_Message | None]:
        start = self.now
        self._at(start + seconds, rank)
        yield None
        if kind != "post":
            self.computed[rank] += seconds
        if self.record:
            self.recorded[rank].append(Event(kind, self.direction, index, start, self.now))

    def _wait(self, rank: int, index: int, message: _Message, peer: int) -> Iterator[_Message | None]:
        start = self.now
        if message.done is None:
            yield message
        if self.now > start:
            self.waited[rank] += self.now - start
            if self.record:
                self.recorded[rank].append(Event("wait", self.direction, index, start, self.now, peer, message.bytes))

    # Links.

    def _advance(self) -> None:
        passed = self.now - self.stamp
        if passed > 0:
            for flow in self.flows:
                flow.left -= flow.rate * passed
        self.stamp = self.now

    def _share(self) -> None:
        """Max-min fair rates: the tightest lanes are divided equally among their messages first, then the rest."""
        users: defaultdict[int, list[_Message]] = defaultdict(list)
        for flow in self.flows:
            flow.rate = 0.0
            for lane in flow.lanes:
                users[lane].append(flow)
        room = {lane: self.cluster.lanes[lane].bandwidth for lane in users}
        count = {lane: len(flows) for lane, flows in users.items()}
        while count:
            share = min(room[lane] / count[lane] for lane in count)
            tight = [lane for lane in count if room[lane] / count[lane] <= share * (1 + _TOGETHER)]
            for lane in tight:
                for flow in users[lane]:
                    if flow.rate:
                        continue
                    flow.rate = share
                    for crossed in flow.lanes:
                        room[crossed] -= share
                        count[crossed] -= 1
            for lane in [lane for lane, left in count.items() if left == 0]:
                del count[lane]
