"""A comparison as text for a terminal of 120 columns: the forward, the backward, what both take in memory."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from ringattn.report.comparison import Comparison, Pass, Result
from ringattn.report.comparison_summary import (
    DIRECTIONS,
    decimals,
    headline,
    mebibytes,
    milliseconds,
    percent,
    sentences,
)
from ringattn.report.table import table

_WIDTH = 120

# Ranks are listed apart where the slowest takes this much longer than the fastest.
_UNEVEN = 1.2

# Longer names are cut, so that a row fits.
_LONGEST_NAME = 30


def comparison_table(comparison: Comparison) -> str:
    """All blocks, one below the other. `*` marks the fastest of each."""
    blocks = [headline(comparison.setup)]
    blocks += [block for direction in DIRECTIONS if (block := _times(comparison, direction))]
    blocks += [block for block in (_sizes(comparison), _by_rank(comparison), _skipped(comparison.results)) if block]
    blocks.append("\n".join(textwrap.fill(sentence, _WIDTH) for sentence in sentences(comparison)))
    return "\n\n".join(blocks)


def _times(comparison: Comparison, direction: str) -> str:
    ran = [(result.schedule, result.passes[direction]) for result in comparison.results if direction in result.passes]
    if not ran:
        return ""
    best = comparison.fastest(direction)
    digits = decimals(1e3 * run.spread[1] for _, run in ran)
    rows = []
    for name, run in ran:
        low, high = run.spread
        error = run.prediction_error
        rows.append(
            [
                _name(name, best is not None and name == best.schedule),
                _ms(run.seconds, digits),
                f"{_ms(low, digits)} to {_ms(high, digits)}",
                "-" if run.predicted is None else _ms(run.predicted, digits),
                "-" if error is None else percent(error, sign=True),
                f"{percent(run.achieved)} {run.bound_by}",
                mebibytes(max(run.up, default=0)),
                mebibytes(max(run.down, default=0)),
                _ms(max(run.exposed, default=0.0), digits),
            ]
        )
    header = [direction, "ms", "repeats", "predicted", "off", "of bound", "MiB up", "MiB down", "ms waiting"]
    return table(header, rows, left=(direction, "of bound"))


def _sizes(comparison: Comparison) -> str:
    """The time of both passes, and what is counted over both."""
    ran = [result for result in comparison.results if result.passes]
    if not ran:
        return ""
    both = {r.schedule: sum(run.seconds for run in r.passes.values()) for r in ran if len(r.passes) == len(DIRECTIONS)}
    digits = decimals(1e3 * seconds for seconds in both.values())
    rows = []
    for result in ran:
        seconds = both.get(result.schedule)
        worst = result.worst_error
        rows.append(
            [
                _name(result.schedule, seconds is not None and seconds == min(both.values())),
                "-" if seconds is None else _ms(seconds, digits),
                mebibytes(max(result.peak_buffer_bytes)) if result.peak_buffer_bytes else "-",
                mebibytes(max(result.peak_memory_bytes)) if result.peak_memory_bytes else "-",
                f"{worst[1]:.1e} {worst[0]}" if worst else "-",
            ]
        )
    header = ["forward + backward", "ms", "MiB of buffers", "MiB at the peak", "error against fp64"]
    return table(header, rows, left=("forward + backward", "error against fp64"))


def _by_rank(comparison: Comparison) -> str:
    """The fastest and the slowest rank of each pass in which they differ by more than a fifth."""
    rows = []
    for result in comparison.results:
        for direction, run in result.passes.items():
            if _uneven(run):
                times = run.by_rank
                ends = [times.index(min(times)), times.index(max(times))]
                shown = [f"{milliseconds(times[rank])} (rank {rank})" for rank in ends]
                rows.append([result.schedule, direction, *shown, f"{max(times) / min(times):.2f}"])
    if not rows:
        return ""
    header = ["ranks differ in", "pass", "fastest", "slowest", "ratio"]
    return table(header, rows, left=("ranks differ in", "pass"))


def _uneven(run: Pass) -> bool:
    times = run.by_rank
    return max(times) > _UNEVEN * min(times)


def _skipped(results: Iterable[Result]) -> str:
    return "\n".join(f"skipped {result.schedule}: {result.skipped}" for result in results if result.skipped)


def _name(schedule: str, best: bool) -> str:
    """With a mark for the fastest, and a place kept for it elsewhere."""
    if len(schedule) > _LONGEST_NAME:
        schedule = schedule[: _LONGEST_NAME - 3] + "..."
    return f"{'*' if best else ' '} {schedule}"


def _ms(seconds: float, digits: int) -> str:
    return f"{1e3 * seconds:,.{digits}f}"
