"""What all ranks measured, put together with what was promised and predicted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ringattn.measure import RankPass, RankResult
from ringattn.planner.cluster import Cluster
from ringattn.planner.costs import Workload
from ringattn.planner.predict import as_run, predict
from ringattn.planner.simulate import Simulation
from ringattn.planner.timeline import RankTimeline
from ringattn.report.comparison import LinkLoad, Pass, Result
from ringattn.schedule.traffic import chunk_bytes
from ringattn.schedule.value import Schedule
from ringattn.schedule.verify import verify
from ringattn.sequence.blocks import visible_blocks


@dataclass(frozen=True)
class Expected:
    """Of one direction. sent: bytes that each rank is to send. simulation: None where no cluster is described."""

    sent: tuple[int, ...]
    simulation: Simulation | None


def assemble(
    name: str,
    expected: Mapping[str, Expected],
    ranks: Sequence[RankResult],
    *,
    clocks: Sequence[str],
    cluster: Cluster | None,
) -> Result:
    """One candidate's result. expected: of the `forward` and the `backward`. ranks: what each found out. clocks: ranks
    with the same one share a clock.

    Raises:
        RuntimeError: a rank sent other bytes than promised.
    """
    passes = {}
    for direction, promise in expected.items():
        each: list[RankPass] = [getattr(rank, direction) for rank in ranks]
        sent = tuple(sum(rank.sent.values()) for rank in each)
        if sent != promise.sent:
            raise RuntimeError(
                f"{name}, {direction}: the ranks sent {sent} bytes, and the schedule promises {promise.sent}"
            )
        passes[direction] = _pass(each, clocks, promise.simulation, cluster)
    tensors = dict.fromkeys(tensor for rank in ranks for tensor in rank.error)
    return Result(
        schedule=name,
        forward=passes["forward"],
        backward=passes["backward"],
        error={tensor: max(rank.error[tensor] for rank in ranks) for tensor in tensors},
        peak_buffer_bytes=tuple(max(r.forward.peak_buffer_bytes, r.backward.peak_buffer_bytes) for r in ranks),
        peak_memory_bytes=tuple(max(r.forward.peak_memory_bytes, r.backward.peak_memory_bytes) for r in ranks),
    )


def expected_of(schedules: Mapping[str, Schedule], workload: Workload, cluster: Cluster | None) -> dict[str, Expected]:
    """What is promised and predicted of a call's schedules, by `forward` and `backward`."""
    found = {}
    for direction, schedule in schedules.items():
        backward = direction == "backward"
        simulation = None if cluster is None else predict(schedule, workload, cluster, backward=backward, record=True)
        found[direction] = Expected(promised(schedule, workload, backward=backward), simulation)
    return found


def promised(schedule: Schedule, workload: Workload, *, backward: bool) -> tuple[int, ...]:
    """Bytes that the verifier counts for each rank to send."""
    run = as_run(schedule, workload)
    layouts = workload.refined(run)
    size = chunk_bytes(run, *layouts, workload.tensors, backward=backward)
    return verify(run, visible_blocks(workload.mask, *layouts), backward=backward, size=size).sent


def _pass(
    ranks: Sequence[RankPass], clocks: Sequence[str], simulation: Simulation | None, cluster: Cluster | None
) -> Pass:
    timeline = _middle(ranks, clocks)
    numbers = range(len(ranks[0].recordings))
    links = () if cluster is None else _links(ranks, cluster)
    return Pass(
        repeats=tuple(zip(*(rank.seconds for rank in ranks))),
        sent=tuple(sum(rank.sent.values()) for rank in ranks),
        received=tuple(sum(rank.received.values()) for rank in ranks),
        up=tuple(sum(n for peer, n in r.sent.items() if peer > own) for own, r in enumerate(ranks)),
        down=tuple(sum(n for peer, n in r.sent.items() if peer < own) for own, r in enumerate(ranks)),
        compute_bound=min(max(rank.recordings[number].computed for rank in ranks) for number in numbers),
        wire_bound=None if cluster is None else max((link.seconds for link in links), default=0.0),
        exposed=tuple(rank.seconds("wait") for rank in timeline),
        timeline=timeline,
        links=links,
        predicted=None if simulation is None else simulation.seconds,
        predicted_exposed=() if simulation is None else simulation.waited,
        predicted_timeline=() if simulation is None else simulation.timelines,
    )


def _middle(ranks: Sequence[RankPass], clocks: Sequence[str]) -> tuple[RankTimeline, ...]:
    """Of all recorded passes the one of the middle length, from one start of time."""
    passes = [_aligned(ranks, clocks, number) for number in range(len(ranks[0].recordings))]
    passes.sort(key=lambda timelines: max((event.stop for rank in timelines for event in rank.events), default=0.0))
    return passes[(len(passes) - 1) // 2]


def _aligned(ranks: Sequence[RankPass], clocks: Sequence[str], number: int) -> tuple[RankTimeline, ...]:
    """One recorded pass. Ranks of a host share its clock and begin where the first of them leaves the barrier; hosts
    are apart by the time in which they leave it."""
    recordings = [rank.recordings[number] for rank in ranks]
    zero: dict[str, float] = {}
    for clock, recording in zip(clocks, recordings):
        zero[clock] = min(recording.began, zero.get(clock, recording.began))
    found = []
    for clock, recording in zip(clocks, recordings):
        later = recording.began - zero[clock]
        events = recording.timeline.events
        moved = tuple(event._replace(start=event.start + later, stop=event.stop + later) for event in events)
        found.append(RankTimeline(recording.timeline.rank, moved))
    return tuple(found)


def _links(ranks: Sequence[RankPass], cluster: Cluster) -> tuple[LinkLoad, ...]:
    """What was sent, on the ways that it takes through the described cluster; heaviest first."""
    loads: defaultdict[int, int] = defaultdict(int)
    for source, rank in enumerate(ranks):
        for target, number in rank.sent.items():
            for lane in cluster.way(source, target).lanes:
                loads[lane] += number
    links = [
        LinkLoad(name=cluster.lanes[lane].name, bytes=number, seconds=number / cluster.lanes[lane].bandwidth)
        for lane, number in loads.items()
    ]
    return tuple(sorted(links, key=lambda link: (-link.seconds, link.name)))
