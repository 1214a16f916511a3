"""A comparison as a run could have filled it: plausible times, bytes and timelines, the same on each call."""

import random

from ringattn.planner.timeline import Event, RankTimeline
from ringattn.report.comparison import Comparison, LinkLoad, Pass, Result, Setup

MIB = 2**20
BANDWIDTH = 12e9


def made_setup(ranks=4, **changes):
    values = {
        "ranks": ranks,
        "hosts": tuple(f"node{rank // 4}" for rank in range(ranks)),
        "length": 32768,
        "batch": 1,
        "query_heads": 32,
        "key_heads": 8,
        "head_dim": 128,
        "dtype": "bfloat16",
        "mask": "causal",
        "layout": "zigzag",
        "repeats": 5,
        "cluster": "pcie-box",
        "hardware": {"processor": "a processor", "cores": "16", "memory": "128 GiB"},
        "versions": {"ringattn": "0.1.0", "torch": "2.13.0", "python": "3.11.7"},
        "commit": "0cd0a81",
        "command": "ringattn compare length=32768 ranks=4 cluster=pcie-box",
        "started": "2026-03-01T12:00:00Z",
    }
    return Setup(**{**values, **changes})


def made_comparison(ranks=4, schedules=("ring", "tokenring", "ulysses"), steps=None, skipped=True):
    """Ring is bound by its wire, tokenring hides it, ulysses stands still while it exchanges; zigzag is skipped."""
    results = [made_result(name, ranks, steps or ranks, number) for number, name in enumerate(schedules)]
    if skipped:
        results.append(Result(schedule="biring", skipped="needs an even number of chunks per rank, got 1"))
    return Comparison(setup=made_setup(ranks), results=tuple(results))


def made_result(name, ranks, steps, seed=0):
    return Result(
        schedule=name,
        forward=made_pass(name, ranks, steps, "forward", seed),
        backward=made_pass(name, ranks, steps, "backward", seed),
        error={"out": 2.1e-3 + seed * 1e-4, "dq": 4.4e-3, "dk": 3.9e-3, "dv": 2.8e-3},
        peak_buffer_bytes=tuple((48 + 8 * seed) * MIB for _ in range(ranks)),
        peak_memory_bytes=tuple((410 + 60 * seed + rank) * MIB for rank in range(ranks)),
    )


def made_pass(name, ranks, steps, direction, seed=0):
    backward = direction == "backward"
    kind = name.partition(":")[0]
    compute = (4.1e-3 if backward else 1.6e-3) * 4 / max(steps, 4)
    size = int({"ring": 32, "tokenring": 20}.get(kind, 14) * MIB * (2 if backward else 1) * 4 / max(steps, 4))
    chance = random.Random(f"{name} {direction} {seed}")
    play = played_all_to_all if kind == "ulysses" else played_ring
    both_ways = kind != "ring"
    slower = 1 + 0.04 * (seed % 3)
    predicted = play(ranks, steps, direction, compute, size, both_ways, lambda: 1.0)
    measured = play(ranks, steps, direction, compute, size, both_ways, lambda: slower * chance.uniform(0.96, 1.22))
    ends = [timeline.events[-1].stop for timeline in measured]
    sent = [sum(e.bytes for e in timeline.events if e.kind == "send") for timeline in measured]
    up = [sum(e.bytes for e in t.events if e.kind == "send" and e.peer > t.rank) for t in measured]
    links = [
        LinkLoad(
            name=f"gpu{rank} > {'switch' if rank % 2 else 'root'}{rank // 4}", bytes=count, seconds=count / BANDWIDTH
        )
        for rank, count in enumerate(sent)
    ]
    return Pass(
        repeats=tuple(tuple(end * chance.uniform(0.99, 1.06) for end in ends) for _ in range(5)),
        sent=tuple(sent),
        received=tuple(sent),
        up=tuple(up),
        down=tuple(whole - part for whole, part in zip(sent, up)),
        compute_bound=compute * steps,
        wire_bound=max(sent) / BANDWIDTH / (2 if both_ways else 1),
        exposed=tuple(timeline.seconds("wait") for timeline in measured),
        timeline=measured,
        links=tuple(sorted(links, key=lambda link: -link.seconds)),
        predicted=max(timeline.events[-1].stop for timeline in predicted),
        predicted_exposed=tuple(timeline.seconds("wait") for timeline in predicted),
        predicted_timeline=predicted,
    )


def played_ring(ranks, steps, direction, compute, size, both_ways, jitter):
    """Each step posts, computes while one message leaves and one comes, adds what came, and waits for the rest."""
    events = [[] for _ in range(ranks)]
    clock = [0.0] * ranks
    for step in range(steps):
        start = list(clock)
        arrived = [0.0] * ranks
        for rank in range(ranks):
            events[rank].append(Event("post", direction, step, start[rank], start[rank] + 4e-5, None, size))
        for rank in range(ranks if step + 1 < steps else 0):
            hops = [(rank + 1) % ranks, (rank - 1) % ranks] if both_ways and ranks > 2 else [(rank + 1) % ranks]
            for target in hops:
                begin = max(start[rank], start[target]) + 5e-5
                end = begin + size / len(hops) / BANDWIDTH * jitter()
                events[rank].append(Event("send", direction, step, begin, end, target, size // len(hops)))
                events[target].append(Event("receive", direction, step, begin, end, rank, size // len(hops)))
                arrived[target] = max(arrived[target], end)
        for rank in range(ranks):
            done = start[rank] + 4e-5 + compute * jitter()
            events[rank].append(Event("compute", direction, step, start[rank] + 4e-5, done))
            if arrived[rank] > done:
                events[rank].append(Event("wait", direction, step, done, arrived[rank], (rank - 1) % ranks, size))
                done = arrived[rank]
            if both_ways and step:
                events[rank].append(Event("merge", direction, step, done, done + compute / 20))
                done += compute / 20
            clock[rank] = done
    return finished(events)


def played_all_to_all(ranks, steps, direction, compute, size, both_ways, jitter):
    """An exchange of all with all, one computation, an exchange of all with all."""
    events = [[] for _ in range(ranks)]
    clock = [0.0] * ranks
    for step in range(3):
        start = max(clock)
        if step == 1:
            for rank in range(ranks):
                clock[rank] = start + compute * steps * jitter()
                events[rank].append(Event("compute", direction, step, start, clock[rank]))
            continue
        each = size // ranks
        for source in range(ranks):
            for target in range(ranks):
                if source != target:
                    end = start + 4e-5 + each * (ranks - 1) / BANDWIDTH * jitter()
                    events[source].append(Event("send", direction, step, start + 4e-5, end, target, each))
                    events[target].append(Event("receive", direction, step, start + 4e-5, end, source, each))
                    clock[target] = max(clock[target], end)
        for rank in range(ranks):
            events[rank].append(Event("post", direction, step, start, start + 4e-5, None, each * (ranks - 1)))
            events[rank].append(Event("wait", direction, step, start + 4e-5, clock[rank], (rank + 1) % ranks, each))
    return finished(events)


def finished(events):
    return tuple(RankTimeline(rank, tuple(sorted(of, key=lambda e: e.stop))) for rank, of in enumerate(events))
