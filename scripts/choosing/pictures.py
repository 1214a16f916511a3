"""The pictures of docs/choosing-a-schedule.md, by name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from choosing.cases import ESTIMATED_RANKS, MESH, PORTS, QUERY_HEADS, SWITCH, Call, ideal, timed
from choosing.charts import EXTRA_STYLE, Axis, Series, bars, legend, lines
from choosing.found import RANKS, TOKENS, best
from ringattn.report.svg import page, text

_MARGIN = 20.0

TWO_BOUNDS_TOKENS = (2048, 4096, 8192, 16384, 32768, 65536)
TWO_BOUNDS = (("h100_8x", "8 × H100 on NVSwitch, 360 GB/s each way"), (PORTS, "8 × H100, a port of 40 GB/s each"))

# The last is TokenRing with queries that go straight to every rank: no published name.
LINKED = {name: name for name in ("ring", "biring", "allgather", "tokenring", "ulysses", "usp:heads=2", "tile:rows=2")}
LINKED["Q straight"] = "grid:heads=1,queries=1,keys=4,query_route=direct"

RATIOS = (1, 2, 4, 8)
BY_RATIO = ("ring", "biring", "tokenring", "allgather", "ulysses", "usp:heads=2")
RATIO_CALLS = (
    (Call("mi300x_8x", 8, 8192), "MI300X, a link for each pair"),
    (Call(PORTS, 8, 16384), "H100, one port for each rank"),
)

SCALED = ("ring", "tokenring", "ulysses", "doublering:inner=8", "usp:heads=8")


def pictures() -> dict[str, str]:
    """Each picture's file name and SVG."""
    return {
        "two-bounds.svg": two_bounds(),
        "mesh-or-switch.svg": mesh_or_switch(),
        "key-heads.svg": key_heads(),
        "ranks.svg": by_ranks(),
    }


def two_bounds() -> str:
    """Time over tokens a rank: of a ring, and of its two bounds."""
    across = Axis([(tokens, short(tokens)) for tokens in TWO_BOUNDS_TOKENS])
    up = Axis([(10.0**power, f"{10.0**power:g} ms") for power in range(-1, 4)])
    panels: list[str] = []
    for column, (cluster, words) in enumerate(TWO_BOUNDS):
        series = []
        for key_heads, like in ((32, "ring"), (8, "allgather")):
            rings = {t: timed(Call(cluster, 8, t, key_heads), "ring", backward=False) for t in TWO_BOUNDS_TOKENS}
            if key_heads == 32:
                compute = [(tokens, 1e3 * ring.compute) for tokens, ring in rings.items()]
                series.append(Series("computation", compute, dashed=True))
            wire = [(tokens, 1e3 * ring.wire) for tokens, ring in rings.items()]
            series.append(Series(f"wire, {key_heads} key heads", wire, dashed=True, like=like))
            whole = [(tokens, 1e3 * ring.seconds) for tokens, ring in rings.items()]
            series.append(Series(f"ring, {key_heads}", whole, like=like))
        left = _MARGIN + 380 * column
        panels += lines(left, 88, 370, 300, title=words, across=across, up=up, label="tokens a rank", series=series)
    parts = [
        _title("The two bounds of ring attention"),
        _subtitle("forward, causal, 32 query heads of 128, bfloat16, 8 ranks"),
        *legend(_MARGIN + 44, 76, series, gap=54),
        *panels,
    ]
    return _page(780, 400, parts, "Time of ring attention over tokens a rank, with the bounds of computation and wire")


def mesh_or_switch() -> str:
    """Bars: the time that links alone need, of each schedule over the ring's."""
    parts = [
        _title("What the links decide"),
        _subtitle("4 ranks, links alone, no mask, 32 heads of 128 and as many key heads, bfloat16; ring = 1"),
    ]
    found = {
        (cluster, backward): [
            (name, timed(_linked(cluster), spec, backward=backward).seconds) for name, spec in LINKED.items()
        ]
        for cluster in (MESH, SWITCH)
        for backward in (False, True)
    }
    most = max(value / times[0][1] for times in found.values() for _, value in times)
    for row, (cluster, words) in enumerate(((MESH, "a link for each pair"), (SWITCH, "one port for each rank"))):
        for column, backward in enumerate((False, True)):
            times = found[cluster, backward]
            rows = [(name, value / times[0][1], f"{value / times[0][1]:.2f}") for name, value in times]
            title = f"{words}, {'backward' if backward else 'forward'}"
            parts += bars(_MARGIN + 370 * column, 72 + 226 * row, 360, title=title, rows=rows, most=most)
    return _page(770, 522, parts, "Time of each schedule over that of a ring, on a full mesh and on a switch")


def _linked(cluster: str) -> Call:
    return Call(cluster, 4, 8192, QUERY_HEADS, causal=False)


def key_heads() -> str:
    """Time over the ratio of query to key heads, on two kinds of links."""
    across = Axis([(ratio, str(ratio)) for ratio in RATIOS])
    parts = [
        _title("Query heads for each key head"),
        _subtitle("8 ranks, causal, 32 query heads of 128, bfloat16; time over that of computation spread evenly"),
        *legend(_MARGIN + 44, 74, [Series(name, []) for name in BY_RATIO], gap=54),
    ]
    up = Axis([(1, "1"), (1.5, "1.5"), (2, "2"), (2.5, "2.5"), (3, "3")], logarithmic=False)
    for row, (call, words) in enumerate(RATIO_CALLS):
        for column, backward in enumerate((False, True)):
            series = []
            for name in BY_RATIO:
                points = []
                for ratio in RATIOS:
                    one = replace(call, key_heads=QUERY_HEADS // ratio)
                    seconds = timed(one, name, backward=backward).seconds
                    points.append((ratio, seconds / ideal(one, backward=backward)))
                series.append(Series(name, points))
            title = f"{words}, {'backward' if backward else 'forward'}"
            label = "query heads for each key head"
            left, top = _MARGIN + 400 * column, 88 + 268 * row
            parts += lines(left, top, 390, 262, title=title, across=across, up=up, label=label, series=series)
    return _page(830, 640, parts, "Time over the ratio of query heads to key heads, for six schedules")


def by_ranks() -> str:
    """How near schedules come to what computation alone allows, at 2 to 1,024 ranks."""
    across = Axis([(tokens, short(tokens)) for tokens in TOKENS])
    up = Axis([(share / 100, f"{share} %") for share in range(0, 101, 20)], logarithmic=False)
    parts = [
        _title("What is left of the accelerators' rate"),
        _subtitle("forward and backward, h100_8x, causal, 32 query and 8 key heads of 128, bfloat16"),
        *legend(_MARGIN + 44, 74, [Series(name, []) for name in (*SCALED, "best found")], gap=50),
    ]
    for column, ranks in enumerate(RANKS):
        calls = [Call("h100_8x", ranks, tokens) for tokens in TOKENS]
        names = [name for name in SCALED if ranks > 8 or ":" not in name]
        if ranks > QUERY_HEADS:
            names.remove("ulysses")
        if ranks > 64:
            # Estimates take seconds there, and these two stand where they stand at 64.
            names = [name for name in names if name in ("ring", "usp:heads=8")]
        series = [Series(name, [(call.tokens, efficiency(call, name, name)) for call in calls]) for name in names]
        chosen = [(call, *(best(call, backward=way).found for way in (False, True))) for call in calls]
        series.append(Series("best found", [(call.tokens, efficiency(call, *both)) for call, *both in chosen]))
        title = f"{ranks:,} ranks" + (", estimated" if ranks >= ESTIMATED_RANKS else "")
        left, top = _MARGIN + 370 * (column % 2), 88 + 236 * (column // 2)
        parts += lines(left, top, 360, 230, title=title, across=across, up=up, label="tokens a rank", series=series)
    return _page(770, 570, parts, "Share of the kernel's rate that schedules reach, over tokens a rank, at four sizes")


def efficiency(call: Call, forward: str, backward: str) -> float:
    """The ideal time of both passes over the predicted one."""
    times = [timed(call, name, backward=way).seconds for name, way in ((forward, False), (backward, True))]
    return sum(ideal(call, backward=way) for way in (False, True)) / math.fsum(times)


def short(tokens: int) -> str:
    return f"{tokens // 1024}k"


def _title(words: str) -> str:
    return text(_MARGIN, 32, words, style="ink title")


def _subtitle(words: str) -> str:
    return text(_MARGIN, 52, words, style="faint")


def _page(width: float, height: float, parts: Sequence[str], title: str) -> str:
    return page(width, height, [EXTRA_STYLE, *parts], title=title)
