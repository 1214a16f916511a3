"""A comparison in a few sentences, and its figures as text: shared by the table, the page and the picture."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import median

from ringattn.report.comparison import Comparison, Setup

DIRECTIONS = ("forward", "backward")

_MIB = 2**20


def sentences(comparison: Comparison) -> list[str]:
    """What a reader wants to know first: who is fastest, how near to the bound, how far predictions were off."""
    found = [line for direction in DIRECTIONS if (line := _fastest(comparison, direction))]
    if not found:
        found.append("No schedule was run.")
    else:
        found.append(_predictions(comparison))
    return found


def headline(setup: Setup) -> str:
    """What was compared, on one line."""
    heads = (
        f"{setup.query_heads} heads"
        if setup.query_heads == setup.key_heads
        else (f"{setup.query_heads} query and {setup.key_heads} key heads")
    )
    return (
        f"{setup.ranks} ranks, {setup.length:,} tokens x {setup.batch}, {heads} of {setup.head_dim}, {setup.dtype}, "
        f"{setup.mask}, {setup.layout}"
    )


def decimals(values: Iterable[float]) -> int:
    """How many decimals show about four digits of the largest value, so that a column has one number of them."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    return 3 - min(3, max(0, math.floor(math.log10(largest)))) if largest > 0 else 0


def milliseconds(seconds: float) -> str:
    """`12.35 ms`: a single figure, to about four digits."""
    shown = seconds * 1e3
    return f"{shown:,.{decimals([shown])}f} ms"


def mebibytes(count: float) -> str:
    """In MiB, without the unit."""
    shown = count / _MIB
    return f"{shown:,.0f}" if shown >= 1000 else f"{shown:,.1f}" if shown >= 1 or not shown else f"{shown:,.3f}"


def percent(fraction: float, *, sign: bool = False) -> str:
    """`71%`, or with a sign `+4%`; small signed ones with a decimal."""
    shown = 100 * fraction
    if not sign:
        return f"{shown:.0f}%"
    return f"{shown:+.1f}%" if round(abs(shown), 1) < 10 else f"{shown:+.0f}%"


def _share(fraction: float) -> str:
    """Small ones with a decimal, without a sign."""
    return percent(fraction, sign=True).lstrip("+")


def _fastest(comparison: Comparison, direction: str) -> str | None:
    ordered = sorted(
        (result.passes[direction].seconds, result.schedule)
        for result in comparison.results
        if direction in result.passes
    )
    best = comparison.fastest(direction)
    if best is None:
        return None
    run = best.passes[direction]
    line = f"Fastest {direction}: {best.schedule}, {milliseconds(run.seconds)}"
    if len(ordered) > 1:
        seconds, name = ordered[1]
        line += f"; the next, {name}, takes {_share(seconds / run.seconds - 1)} longer"
    return f"{line}. It reaches {percent(run.achieved)} of its {run.bound_by} bound."


def _predictions(comparison: Comparison) -> str:
    off = [
        (error, f"{result.schedule} {direction}")
        for result in comparison.results
        for direction, run in result.passes.items()
        if (error := run.prediction_error) is not None
    ]
    if not off:
        return "Nothing was predicted: no cluster was described."
    worst, name = max(off, key=lambda pair: abs(pair[0]))
    middle = median(abs(error) for error, _ in off)
    worst_words = f"{_share(abs(worst))} too {'long' if worst > 0 else 'short'}"
    return f"Predictions were off by {_share(middle)} in the median; the worst, {name}, was {worst_words}."
