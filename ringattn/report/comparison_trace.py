"""A comparison in the trace event format, which chrome://tracing and Perfetto open: see "Trace Event Format" by
Duca and Sinclair.

A process is a rank of one schedule, measured or predicted; its threads are `compute`, `send`, `receive` and `wait`.
Messages that overlap take more threads of the same kind, because events of one thread may only nest. All backwards
begin at one time, after the longest forward, so that schedules can be compared along the whole axis.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ringattn.planner.timeline import Event, RankTimeline
from ringattn.report.comparison import Comparison, Pass, Result

LANES = ("compute", "send", "receive", "wait")

# Between a forward and the backwards that follow, as a share of the longest forward.
_PAUSE = 0.05

# The events of a rank by number: (rank, event).
_Place = tuple[int, int]


def write_trace(comparison: Comparison, path: Path) -> None:
    """Write a JSON object, as both viewers read it."""
    setup = comparison.setup
    about = {"command": setup.command, "commit": setup.commit, "started": setup.started, "mask": setup.mask}
    trace = {"traceEvents": trace_events(comparison), "displayTimeUnit": "ms", "otherData": about}
    path.write_text(json.dumps(trace, separators=(",", ":")), encoding="utf-8")


def trace_events(comparison: Comparison) -> list[dict[str, Any]]:
    """All events, those that name processes and threads first; `ts` and `dur` in microseconds."""
    named: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    begin = _backward_begins(comparison.results)
    process = flow = 0
    for result in comparison.results:
        for source in ("measured", "predicted"):
            runs = {direction: _timelines(run, source) for direction, run in result.passes.items()}
            ranks = sorted({timeline.rank for timelines in runs.values() for timeline in timelines})
            processes = {rank: process + 1 + number for number, rank in enumerate(ranks)}
            threads: set[tuple[int, int]] = set()
            for direction, timelines in runs.items():
                offset = begin if direction == "backward" else 0.0
                places = {timeline.rank: tracks(timeline) for timeline in timelines}
                for timeline in timelines:
                    for event, thread in zip(timeline.events, places[timeline.rank]):
                        threads.add((timeline.rank, thread))
                        found.append(_slice(event, processes[timeline.rank], thread, offset))
                events = {timeline.rank: timeline.events for timeline in timelines}
                for (rank, sent), (peer, received) in message_pairs(timelines):
                    ends = (processes[rank], places[rank][sent]), (processes[peer], places[peer][received])
                    arrow = _arrow(flow, events[rank][sent], events[peer][received], ends, offset)
                    found += arrow
                    flow += bool(arrow)
            for rank, number in processes.items():
                named += _named(result.schedule, rank, source, number, [t for r, t in sorted(threads) if r == rank])
            process += len(ranks)
    return named + found


def lane(kind: str) -> str:
    """The lane of a kind of event. All work of a rank itself (`merge`, `post`, ...) stands beside its tasks."""
    return kind if kind in LANES else "compute"


def tracks(timeline: RankTimeline) -> list[int]:
    """For each event a track, such that those of one track do not overlap: `LANES.index(lane)` plus four for each
    track of the same lane that is taken."""
    free: defaultdict[str, list[float]] = defaultdict(list)
    found = [0] * len(timeline.events)
    for number in sorted(range(len(found)), key=lambda n: (timeline.events[n].start, timeline.events[n].stop)):
        event = timeline.events[number]
        ends = free[lane(event.kind)]
        row = next((row for row, end in enumerate(ends) if end <= event.start), len(ends))
        ends[row : row + 1] = [event.stop]
        found[number] = LANES.index(lane(event.kind)) + row * len(LANES)
    return found


def message_pairs(timelines: Sequence[RankTimeline]) -> Iterator[tuple[_Place, _Place]]:
    """The send and the receive of each message, by (rank, number of the event).

    Between two ranks messages of one size arrive in the order in which they were sent. Where one end recorded more of
    them than the other, nobody can tell which belong together, and none is named.
    """
    ends: defaultdict[tuple[int, int | None, int], tuple[list[_Place], list[_Place]]]
    ends = defaultdict(lambda: ([], []))
    begins: dict[_Place, float] = {}
    for timeline in timelines:
        for number, event in enumerate(timeline.events):
            place = (timeline.rank, number)
            begins[place] = event.start
            if event.kind == "send":
                ends[timeline.rank, event.peer, event.bytes][0].append(place)
            elif event.kind == "receive" and event.peer is not None:
                ends[event.peer, timeline.rank, event.bytes][1].append(place)
    for sends, receives in ends.values():
        if len(sends) == len(receives):
            yield from zip(sorted(sends, key=begins.__getitem__), sorted(receives, key=begins.__getitem__))


def _timelines(run: Pass, source: str) -> tuple[RankTimeline, ...]:
    return run.timeline if source == "measured" else run.predicted_timeline


def _backward_begins(results: Sequence[Result]) -> float:
    """Seconds: a little after the last event of any forward."""
    forwards = [result.forward for result in results if result.forward]
    timelines = [timeline for run in forwards for timeline in (*run.timeline, *run.predicted_timeline)]
    return (1 + _PAUSE) * max((event.stop for timeline in timelines for event in timeline.events), default=0.0)


def _named(schedule: str, rank: int, source: str, process: int, threads: Sequence[int]) -> list[dict[str, Any]]:
    about = {"ph": "M", "ts": 0, "pid": process}
    named: list[dict[str, Any]] = [
        {**about, "tid": 0, "name": "process_name", "args": {"name": f"{schedule} rank {rank} {source}"}},
        {**about, "tid": 0, "name": "process_sort_index", "args": {"sort_index": process}},
    ]
    for thread in threads:
        row, number = divmod(thread, len(LANES))
        name = LANES[number] + (f" {row + 1}" if row else "")
        # Viewers sort by this index: all tracks of a lane stand together.
        order = number * 1000 + row
        named.append({**about, "tid": thread, "name": "thread_name", "args": {"name": name}})
        named.append({**about, "tid": thread, "name": "thread_sort_index", "args": {"sort_index": order}})
    return named


def _slice(event: Event, process: int, thread: int, offset: float) -> dict[str, Any]:
    args: dict[str, Any] = {"step": event.step}
    if event.peer is not None:
        args["peer"] = event.peer
    if event.bytes:
        args["bytes"] = event.bytes
    start, stop = _microseconds(offset + event.start), _microseconds(offset + event.stop)
    return {
        "ph": "X",
        "ts": start,
        # Of the rounded ends: neighbours must not overlap by the last digit.
        "dur": round(max(0.0, stop - start), 3),
        "pid": process,
        "tid": thread,
        "cat": event.direction,
        "name": f"step {event.step} {event.kind}",
        "args": args,
    }


def _arrow(
    number: int, send: Event, receive: Event, ends: tuple[tuple[int, int], tuple[int, int]], offset: float
) -> list[dict[str, Any]]:
    """From the begin of a send into its receive. An arrow must point forward in time and end inside the event that it
    points at; where the clocks of two ranks disagree by more than a message takes there is none."""
    low = max(send.start, receive.start)
    if low >= receive.stop:
        return []
    times = (send.start, (low + receive.stop) / 2)
    return [
        {"ph": phase, "ts": _microseconds(offset + at), "pid": pid, "tid": tid, "id": number, "cat": "message"}
        | {"name": "message"}
        | ({"bp": "e"} if phase == "f" else {})
        for phase, at, (pid, tid) in zip("sf", times, ends)
    ]


def _microseconds(seconds: float) -> float:
    return round(1e6 * seconds, 3)
