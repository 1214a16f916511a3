"""A comparison as one HTML file that needs nothing else: no server, no network, no other file.

The words, the setup and the table are written here; bars and timelines are drawn by the scripts in `page/` from the
data that the file carries. The page's own policy forbids it any connection, and any script or style but its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from ringattn.planner.timeline import RankTimeline
from ringattn.report.comparison import Comparison, Pass, Result, Setup
from ringattn.report.comparison_html import results_table, setup_list
from ringattn.report.comparison_json import plain
from ringattn.report.comparison_summary import headline, sentences
from ringattn.report.comparison_trace import LANES, message_pairs, tracks

# In the order in which they build on one another.
_SCRIPTS = ("start.js", "bars.js", "table.js", "timeline.js", "hand.js", "detail.js")


def write_page(comparison: Comparison, path: Path) -> None:
    """Write the file."""
    path.write_text(page(comparison), encoding="utf-8")


def page(comparison: Comparison) -> str:
    """The whole page."""
    style = _part("page.css")
    script = "\n".join(_part(name) for name in _SCRIPTS)
    setup = comparison.setup
    skipped = [result for result in comparison.results if result.skipped]
    parts = {
        "policy": _policy(style, script),
        "title": escape(f"ringattn compare: {setup.ranks} ranks, {setup.length:,} tokens"),
        "headline": escape(headline(setup)),
        "summary": _items(map(escape, sentences(comparison))),
        "skipped": _items(f"<b>{escape(r.schedule)}</b> was skipped: {escape(r.skipped or '')}" for r in skipped),
        "table": results_table(comparison),
        "setup": setup_list(setup),
        "style": style,
        "data": _embedded("data", {"setup": _shown_setup(setup), "results": [_figures(r) for r in comparison.results]}),
        "timelines": "\n".join(
            _embedded(f"timeline-{number}-{direction}", timelines(run))
            for number, result in enumerate(comparison.results)
            for direction, run in result.passes.items()
        ),
        "script": script,
    }
    return re.sub(r"{{(\w+)}}", lambda match: parts[match[1]], _part("page.html"))


def timelines(run: Pass) -> dict[str, Any]:
    """The events of a pass, measured and predicted, by column: kinds by their number in `kinds`, times in
    microseconds, `row` of its lane, and `pair`, the number of the other end of a message in its rank's events."""
    kinds = sorted({e.kind for t in (*run.timeline, *run.predicted_timeline) for e in t.events})
    return {
        "kinds": kinds,
        "measured": _columns(run.timeline, kinds),
        "predicted": _columns(run.predicted_timeline, kinds),
    }


def _columns(ranks: tuple[RankTimeline, ...], kinds: list[str]) -> list[dict[str, Any]]:
    pairs: dict[tuple[int, int], int] = {}
    for send, receive in message_pairs(ranks):
        pairs[send], pairs[receive] = receive[1], send[1]
    numbers = {kind: number for number, kind in enumerate(kinds)}
    return [
        {
            "rank": timeline.rank,
            "kind": [numbers[event.kind] for event in timeline.events],
            "step": [event.step for event in timeline.events],
            "start": [round(1e6 * event.start, 2) for event in timeline.events],
            "length": [round(1e6 * (event.stop - event.start), 2) for event in timeline.events],
            "peer": [-1 if event.peer is None else event.peer for event in timeline.events],
            "bytes": [event.bytes for event in timeline.events],
            "row": [track // len(LANES) for track in tracks(timeline)],
            "pair": [pairs.get((timeline.rank, number), -1) for number in range(len(timeline.events))],
        }
        for timeline in ranks
    ]


def _shown_setup(setup: Setup) -> dict[str, Any]:
    return {"ranks": setup.ranks, "hosts": setup.hosts, "repeats": setup.repeats}


def _figures(result: Result) -> dict[str, Any]:
    """What the scripts need of a result besides its timelines."""
    return {
        "schedule": result.schedule,
        "skipped": result.skipped,
        "buffers": result.peak_buffer_bytes,
        "memory": result.peak_memory_bytes,
        "passes": {
            direction: {
                "seconds": run.seconds,
                "spread": run.spread,
                "byRank": run.by_rank,
                "predicted": run.predicted,
                "off": run.prediction_error,
                "computeBound": run.compute_bound,
                "wireBound": run.wire_bound,
                "achieved": run.achieved,
                "boundBy": run.bound_by,
                "up": run.up,
                "down": run.down,
                "received": run.received,
                "exposed": run.exposed,
                "predictedExposed": run.predicted_exposed,
                "links": [(link.name, link.bytes, link.seconds) for link in run.links],
            }
            for direction, run in result.passes.items()
        },
    }


def _embedded(name: str, value: Mapping[str, Any]) -> str:
    """A block of data. No text in it can end the block or begin a comment: such characters are written by number."""
    text = json.dumps(plain(value), separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="{name}">{text}</script>'


def _policy(style: str, script: str) -> str:
    """Nothing may be loaded, and only these two run and paint, known by their hashes."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return (
        f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; connect-src 'none'; "
        "base-uri 'none'; form-action 'none'"
    )


def _items(lines: Iterable[str]) -> str:
    return "\n".join(f"<li>{line}</li>" for line in lines)


def _part(name: str) -> str:
    return resources.files("ringattn.report").joinpath("page", name).read_text(encoding="utf-8")
