"""The tables of docs/choosing-a-schedule.md, by the name of their place in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from choosing.cases import (
    ESTIMATED_RANKS,
    PORTS,
    QUERY_HEADS,
    Call,
    cluster_of,
    ideal,
    timed,
    workload_of,
)
from choosing.found import RANKS, TOKENS, Best, best, everything
from choosing.pictures import efficiency
from ringattn.planner.costs import kernel_for
from ringattn.planner.predict import as_run
from ringattn.report.schedule import spread
from ringattn.schedule.traffic import chunk_bytes
from ringattn.schedule.verify import verify

# Of 50 Mbit/s links between four hosts (docs/validation.md).
_MEASURED = Path(__file__).resolve().parents[2] / "docs" / "measurements" / "2026-11-23" / "summary.json"

# What is less than the simulator can be trusted to tell apart, as a fraction.
_NOTHING = 0.005

_CLUSTERS = {
    "h100_8x": "H100, NVSwitch",
    PORTS: "H100, a port of 400 Gb/s each",
    "mi300x_8x": "MI300X, a link for each pair",
    "a10_4x": "A10, PCIe",
    "l20_8x": "L20, PCIe",
}

_DOCUMENTS = (0, 3000, 4000, 16000, 22000, 45000, 45500, 60000, 65536)
_MASKS = (
    ("causal", {}),
    ("causal, window of 4,096", {"window": 4096}),
    ("causal, 8 documents of 500 to 23,000", {"documents": _DOCUMENTS}),
    ("none", {"causal": False}),
)
_LAYOUTS = ("contiguous", "zigzag", "striped", "balanced")


def tables() -> dict[str, str]:
    """Each table's name and Markdown."""
    return {
        "hidden-from": hidden_from(),
        "bytes": sent_and_held(),
        "exposed": exposed(),
        "ranks-8": by_ranks(8),
        "ranks-32": by_ranks(32),
        "directions": directions(),
        "layouts": layouts(),
        "unnamed": unnamed(),
        "measured": measured(),
    }


def hidden_from() -> str:
    """From how many tokens a rank on the hop of a ring takes no longer than the block computed meanwhile."""
    rows = []
    for name, words in _CLUSTERS.items():
        cluster = cluster_of(name, 8)
        bandwidth = min(cluster.lanes[lane].bandwidth for lane in cluster.way(0, 1).lanes)
        kernel = kernel_for(cluster.accelerator, "bfloat16")
        cells = [words, f"{bandwidth / 1e9:.0f} GB/s"]
        # A hop carries k, v forward, and their gradients in fp32 as well backward; a step computes half a block.
        for rates, item_bytes, flops in ((kernel.forward, 2, 4), (kernel.backward, 2 + 4, 10)):
            rate = max(found.flops for found in rates)
            for ratio in (1, 4):
                tokens = 2 * item_bytes / ratio / bandwidth * rate / (flops / 2)
                cells.append(f"{tokens:,.0f}" if tokens < 1e4 else f"{round(tokens, -3):,.0f}")
        rows.append(cells)
    head = ("", "a hop has", "forward, MHA", "forward, 4 to 1", "backward, MHA", "backward, 4 to 1")
    return _markdown(head, rows)


def sent_and_held() -> str:
    """Bytes that a rank sends, and the most it holds of others, as the verifier counts them."""
    names = ("ring", "biring", "tokenring", "allgather", "tile", "ulysses")
    counts, length = (4, 8, 16, 32), 131072
    rows = []
    for name in names:
        cells = [f"`{name}`"]
        for ranks in counts:
            call = Call("h100_8x", ranks, length // ranks, QUERY_HEADS, causal=False)
            cells.append(" / ".join(_size(_asked(call, name, backward=way)[0]) for way in (False, True)))
        cells.append(" / ".join(_size(_asked(replace(call), name, backward=way)[1]) for way in (False, True)))
        rows.append(cells)
    return _markdown(("", *(f"{ranks} ranks" for ranks in counts), "held at 32 ranks"), rows)


def _asked(call: Call, name: str, *, backward: bool) -> tuple[int, int]:
    """The most bytes that any rank sends, and holds of others."""
    workload = workload_of(call)
    schedule = as_run(name, workload)
    size = chunk_bytes(schedule, *workload.refined(schedule), workload.tensors, backward=backward)
    told = verify(schedule, None, backward=backward, size=size)
    return max(told.sent), max(told.peak)


def exposed() -> str:
    """How much of the time no rank computes, by tokens a rank."""
    rows = []
    for name in ("ring", "biring", "allgather", "tokenring", "ulysses", "usp:heads=2", "usp:heads=4", "tile:rows=2"):
        cells = [f"`{name}`"]
        for key_heads in (QUERY_HEADS, 8):
            for tokens in TOKENS:
                call = Call("h100_8x", 8, tokens, key_heads)
                both = [timed(call, name, backward=way) for way in (False, True)]
                seconds = sum(one.seconds for one in both)
                cells.append(f"{100 * (1 - sum(one.compute for one in both) / seconds):.0f} %")
        rows.append(cells)
    head = [f"{tokens:,}, {heads}" for heads in ("MHA", "4 to 1") for tokens in TOKENS]
    return _markdown(("", *head), rows)


def by_ranks(key_heads: int) -> str:
    """The best schedules at four sizes of one cluster."""
    rows = []
    for ranks in RANKS:
        for tokens in TOKENS:
            call = Call("h100_8x", ranks, tokens, key_heads)
            both = [best(call, backward=way) for way in (False, True)]
            times = [timed(call, one.named, backward=one.backward) for one in both]
            shown = sum(time.seconds for time in times)
            hidden = sum(min(time.compute, time.seconds) for time in times) / shown
            rows.append(
                [
                    f"{ranks:,}",
                    f"{tokens:,}",
                    *(f"`{one.named}`" for one in both),
                    _times([time.seconds for time in times]),
                    f"{100 * efficiency(call, both[0].named, both[1].named):.0f} %",
                    f"{100 * (1 - hidden):.0f} %",
                    " / ".join(_less(one) for one in both),
                ]
            )
    head = ("ranks", "tokens a rank", "best named, forward", "backward", "ms", "of ideal", "exposed", "best found")
    return _markdown(head, rows)


def directions() -> str:
    """Where the best named schedules of the two passes differ, and what it saves to set each."""
    rows = []
    for entry in everything():
        call = entry.call
        if entry.backward or call.ranks >= ESTIMATED_RANKS:
            continue
        other = best(call, backward=True)
        if entry.named == other.named:
            continue
        named = [timed(call, one.named, backward=one.backward).seconds for one in (entry, other)]
        alike = {}
        for one in (entry, other):
            alike[one.named] = sum(timed(call, one.named, backward=way).seconds for way in (False, True))
        single = min(alike, key=lambda name: (alike[name], name))
        saved = 1 - sum(named) / alike[single]
        cells = [_machine(call), f"`{entry.named}`", f"`{other.named}`", f"`{single}`", f"{100 * saved:.1f} %"]
        rows.append((saved, cells))
    rows.sort(key=lambda row: -row[0])
    head = ("", "forward", "backward", "the better of them for both", "less time with each its own")
    return _markdown(head, [cells for _, cells in rows[:8]])


def layouts() -> str:
    """Ring attention on eight ranks under four masks: ms of both passes by layout, and the share of the ideal rate."""
    rows = []
    for words, mask in _MASKS:
        cells = [words]
        for layout in _LAYOUTS:
            call = replace(Call("h100_8x", 8, 8192, layout=layout), **mask)
            seconds = sum(timed(call, "ring", backward=way).seconds for way in (False, True))
            least = sum(ideal(call, backward=way) for way in (False, True))
            cells.append(f"{1e3 * seconds:.1f} ms, {100 * least / seconds:.0f} %")
        rows.append(cells)
    return _markdown(("mask", *(f"`{layout}`" for layout in _LAYOUTS)), rows)


def unnamed() -> str:
    """The points without a name that gain most."""
    chosen = sorted((entry for entry in everything() if entry.gain > _NOTHING), key=lambda entry: -entry.gain)
    rows = []
    for entry in chosen[:14]:
        call = entry.call
        ways = "played" if call.ranks < ESTIMATED_RANKS or entry.played else "estimated"
        rows.append(
            [
                _machine(call),
                "backward" if entry.backward else "forward",
                f"`{entry.named}`",
                f"`{entry.found}`",
                f"{100 * entry.gain:.1f} %, {ways}",
            ]
        )
    return _markdown(("", "pass", "best named", "found", "less time"), rows)


def measured() -> str:
    """TokenRing's time over the ring's, and the fastest published schedule, on the test bed without a mask."""
    figures = json.loads(_MEASURED.read_text(encoding="utf-8"))["figures"]
    seconds = {(each["case"], each["direction"], each["schedule"]): each["measured"] for each in figures}
    beds = {"mesh": "mesh", "switch": "switch", "two-level": "two groups of two"}
    rows, fastest = [], []
    for words, key_heads in (("MHA", 8), ("4 to 1", 2)):
        best = {}
        for direction in ("forward", "backward"):
            cells = []
            for bed in beds:
                pass_of = (f"{bed}-50Mbit-8-{key_heads}-full", direction)
                ratio = seconds[(*pass_of, "tokenring")] / seconds[(*pass_of, "ring")]
                cells.append(f"{ratio:.2f}")
                named = [key for key in seconds if key[:2] == pass_of and ":" not in key[2]]
                best[bed, direction] = min(named, key=lambda key: seconds[key])[2]
            rows.append([f"{words}, {direction}", *cells])
        fastest.append([f"fastest, {words}", *(_both(best[bed, "forward"], best[bed, "backward"]) for bed in beds)])
    return _markdown(("", *beds.values()), rows + fastest)


def _both(forward: str, backward: str) -> str:
    return f"`{forward}`" if forward == backward else f"`{forward}` forward, `{backward}` backward"


def _machine(call: Call) -> str:
    heads = "MHA" if call.key_heads == QUERY_HEADS else f"{QUERY_HEADS // call.key_heads} to 1"
    return f"{call.ranks:,} × {_CLUSTERS[call.cluster]}, {call.tokens:,} tokens, {heads}"


def _less(entry: Best) -> str:
    """How much less time the best point takes, where it is no named one."""
    if entry.found == entry.named or abs(entry.gain) < _NOTHING:
        return "the same"
    return f"{-100 * entry.gain:+.1f} %".replace("-", "−")


def _times(seconds: Sequence[float]) -> str:
    return " + ".join(f"{1e3 * value:.3g}" if value < 1 else f"{1e3 * value:,.0f}" for value in seconds)


def _size(count: int) -> str:
    return spread([count], unit="bytes")


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
