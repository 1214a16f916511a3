"""The trace of a comparison has the form that chrome://tracing and Perfetto read."""

import itertools
import json
from collections import defaultdict

import pytest
from made_comparison import made_comparison, made_setup

from ringattn.planner.timeline import Event, RankTimeline
from ringattn.report.comparison import Comparison, Pass, Result
from ringattn.report.comparison_trace import LANES, message_pairs, trace_events, tracks, write_trace

SEND = Event("send", "forward", 3, 1.0, 3.0, 1, 8)
RECEIVE = Event("receive", "forward", 3, 1.5, 3.5, 0, 8)
COMPUTE = Event("compute", "forward", 3, 0.0, 2.0)


def a_pass(*ranks):
    timeline = tuple(RankTimeline(rank, events) for rank, events in enumerate(ranks))
    counts = {name: (0,) * len(ranks) for name in ("sent", "received", "up", "down", "exposed")}
    return Pass(repeats=((1.0,) * len(ranks),), **counts, compute_bound=1.0, wire_bound=None, timeline=timeline)


def traced(**passes):
    return trace_events(Comparison(setup=made_setup(2), results=(Result(schedule="x", **passes),)))


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    path = tmp_path_factory.mktemp("trace") / "trace.json"
    write_trace(made_comparison(), path)
    return json.loads(path.read_text(encoding="utf-8"))["traceEvents"]


def test_every_event_has_what_viewers_ask_for(events):
    for event in events:
        assert {"ph", "ts", "pid", "tid", "name"} <= event.keys()
        assert event["ts"] >= 0
        if event["ph"] == "X":
            assert event["dur"] >= 0


def test_a_process_is_a_rank_of_a_schedule(events):
    names = [event["args"]["name"] for event in events if event["name"] == "process_name"]
    assert len(names) == len(set(names)) == 3 * 2 * 4
    assert {"ring rank 0 measured", "ring rank 0 predicted", "ulysses rank 3 measured"} <= set(names)
    numbers = {event["pid"] for event in events if event["name"] == "process_name"}
    assert {event["pid"] for event in events} == numbers


def test_threads_are_lanes(events):
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert {name.split()[0] for name in threads.values()} == set(LANES)
    for event in events:
        if event["ph"] == "X":
            kind = event["name"].split()[-1]
            assert threads[event["pid"], event["tid"]].split()[0] == (kind if kind in LANES else "compute")


def test_events_of_a_thread_do_not_overlap(events):
    spans = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            spans[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for of in spans.values():
        for (_, stop), (start, _) in itertools.pairwise(sorted(of)):
            assert stop <= start + 1e-6


def test_one_message():
    found = traced(forward=a_pass((COMPUTE, SEND), (RECEIVE,)))
    slices = [(e["name"], e["ts"], e["dur"], e["args"]) for e in found if e["ph"] == "X"]
    assert slices == [
        ("step 3 compute", 0.0, 2e6, {"step": 3}),
        ("step 3 send", 1e6, 2e6, {"step": 3, "peer": 1, "bytes": 8}),
        ("step 3 receive", 1.5e6, 2e6, {"step": 3, "peer": 0, "bytes": 8}),
    ]
    start, end = (e for e in found if e["ph"] in "sf")
    assert (start["ph"], start["pid"], start["tid"], start["ts"]) == ("s", 1, 1, 1e6)
    assert (end["ph"], end["pid"], end["tid"], end["ts"], end["bp"]) == ("f", 2, 2, 2.5e6, "e")
    assert start["id"] == end["id"]


def test_arrows_point_forward_into_the_event_that_they_end_in(events):
    slices = [event for event in events if event["ph"] == "X"]
    begins = {event["id"]: event for event in events if event["ph"] == "s"}
    ends = [event for event in events if event["ph"] == "f"]
    assert len(begins) == len(ends) > 0
    for end in ends[::17]:
        assert begins[end["id"]]["ts"] <= end["ts"]
        within = [s for s in slices if (s["pid"], s["tid"]) == (end["pid"], end["tid"])]
        assert any(s["ts"] <= end["ts"] <= s["ts"] + s["dur"] and "receive" in s["name"] for s in within)


def test_there_is_no_arrow_where_the_clocks_disagree():
    early = RECEIVE._replace(start=0.1, stop=0.2)
    assert not [event for event in traced(forward=a_pass((SEND,), (early,))) if event["ph"] in "sf"]


def test_backwards_begin_after_all_forwards():
    found = traced(forward=a_pass((COMPUTE,)), backward=a_pass((COMPUTE._replace(direction="backward"),)))
    assert [(e["cat"], e["ts"]) for e in found if e["ph"] == "X"] == [("forward", 0.0), ("backward", 2.1e6)]


def test_messages_of_one_size_pair_up_in_order():
    later = [event._replace(start=event.start + 5, stop=event.stop + 5) for event in (SEND, RECEIVE)]
    ranks = RankTimeline(0, (later[0], SEND)), RankTimeline(1, (RECEIVE, later[1]))
    assert sorted(message_pairs(ranks)) == [((0, 0), (1, 1)), ((0, 1), (1, 0))]
    assert list(message_pairs((RankTimeline(0, (SEND, later[0])), ranks[1]))) != []
    assert list(message_pairs((RankTimeline(0, (SEND,)), ranks[1]))) == []


def test_what_overlaps_takes_another_track():
    merge = Event("merge", "forward", 3, 2.0, 2.5)
    other = SEND._replace(start=2.0, stop=4.0)
    after = SEND._replace(start=3.0, stop=5.0)
    assert tracks(RankTimeline(0, (COMPUTE, merge, SEND, other, after))) == [0, 0, 1, 5, 1]
