"""A comparison as one PNG: bars of both passes, and below them the ranks of the fastest forward over time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ringattn.planner.timeline import RankTimeline
from ringattn.report.comparison import Comparison, Pass, Result
from ringattn.report.comparison_summary import DIRECTIONS, decimals, headline, percent
from ringattn.report.comparison_trace import lane

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _FAINT, _GRID = "#1b1f24", "#57606a", "#d9dee3"
_MEASURED, _PREDICTED = "#4a7fb5", "#b3480a"
_KINDS = {
    "compute": "#0072b2",
    "merge": "#d55e00",
    "post": "#7d8590",
    "send": "#e69f00",
    "receive": "#009e73",
    "wait": "#cc5a9b",
}

# Ranks beyond these are left to the page.
_RANKS = 8

# Of a rank's row: where each lane stands, from the top down, and how tall it is.
_ROWS = {"compute": (0.0, 0.3), "send": (0.32, 0.16), "receive": (0.5, 0.16), "wait": (0.68, 0.16)}


def draw_comparison(comparison: Comparison, path: Path) -> None:
    """Write a PNG, 1,600 pixels wide.

    Raises:
        ValueError: no schedule was run, so that there is nothing to draw.
    """
    ran = [result for result in comparison.results if result.passes]
    if not ran:
        raise ValueError("no schedule was run: there is nothing to draw, read the reasons in the table")

    # A figure of its own rather than one of pyplot's: nothing global changes, whatever backend the caller has chosen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    direction = "forward" if any(result.forward for result in ran) else "backward"
    best = comparison.fastest(direction)
    sources = _sources(best.passes[direction]) if best else []
    bars = 1.1 + 0.42 * len(ran)
    rows = sum(min(len(timelines), _RANKS) for _, timelines in sources)
    lanes = 0.9 + 0.42 * rows if rows else 0.0
    figure = Figure(figsize=(12.5, 0.9 + bars + lanes), dpi=128, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"ringattn compare\n{headline(comparison.setup)}", fontsize=12, x=0.01, ha="left", color=_INK)
    grid = figure.add_gridspec(2 if rows else 1, 2, height_ratios=[bars, lanes] if rows else [1])
    for column, name in enumerate(DIRECTIONS):
        axes = figure.add_subplot(grid[0, column])
        _bars(axes, [result for result in ran if name in result.passes], name, legend=column == 0)
    if rows and best:
        _timeline(figure.add_subplot(grid[1, :]), best, direction, sources)
    figure.savefig(path)


def _bars(axes: Axes, ran: list[Result], direction: str, *, legend: bool) -> None:
    ran = sorted(ran, key=lambda result: result.passes[direction].seconds)
    runs = [result.passes[direction] for result in ran]
    axes.set_title(direction.capitalize(), loc="left", fontsize=11, fontweight="bold", color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    if not ran:
        axes.set_yticks([])
        return
    low, high = zip(*(run.spread for run in runs))
    times = [1e3 * run.seconds for run in runs]
    reach = [[t - 1e3 * a for t, a in zip(times, low)], [1e3 * b - t for t, b in zip(times, high)]]
    places = range(len(ran))
    style = {"ecolor": _INK, "elinewidth": 1.2, "capsize": 3}
    axes.barh(places, times, 0.46, color=_MEASURED, xerr=reach, error_kw=style, label="measured, with all repeats")
    for name, dashes, bounds in (
        ("compute bound", "solid", [run.compute_bound for run in runs]),
        ("wire bound", "dotted", [run.wire_bound for run in runs]),
    ):
        known = [(place, 1e3 * bound) for place, bound in zip(places, bounds) if bound is not None]
        if known:
            where, found = zip(*known)
            below, above = [place - 0.38 for place in where], [place + 0.38 for place in where]
            axes.vlines(found, below, above, color=_INK, linewidth=2.2, linestyle=dashes, label=name)
    predicted = [(1e3 * run.predicted, place) for run, place in zip(runs, places) if run.predicted is not None]
    if predicted:
        dots = {"color": _PREDICTED, "edgecolor": "white", "s": 62, "zorder": 5}
        axes.scatter(*zip(*predicted), marker="D", label="predicted", **dots)  # type: ignore[arg-type]
    digits = decimals(times)
    ends = [max(1e3 * run.spread[1], 1e3 * (run.predicted or 0), 1e3 * run.bound) for run in runs]
    for place, run, end in zip(places, runs, ends):
        off = "" if run.prediction_error is None else f"  ({percent(run.prediction_error, sign=True)})"
        words = f"{1e3 * run.seconds:,.{digits}f}{off}"
        axes.annotate(words, (end, place), (8, 0), textcoords="offset points", va="center", fontsize=9, color=_INK)
    axes.set_yticks(list(places), labels=[result.schedule for result in ran], fontsize=10)
    axes.set_ylim(len(ran) - 0.4, -0.6)
    axes.set_xlim(0, 1.32 * max(ends))
    axes.set_xlabel("ms (predicted over measured, less 1)", fontsize=9, color=_FAINT)
    axes.grid(axis="x", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    if legend:
        handles, labels = axes.get_legend_handles_labels()
        order = sorted(range(len(labels)), key=lambda n: not labels[n].startswith("measured"))
        shown = [handles[n] for n in order], [labels[n] for n in order]
        axes.figure.legend(*shown, loc="upper right", fontsize=9, frameon=False, ncols=4)


def _sources(run: Pass) -> list[tuple[str, tuple[RankTimeline, ...]]]:
    both = (("measured", run.timeline), ("predicted", run.predicted_timeline))
    return [(name, timelines) for name, timelines in both if timelines]


def _timeline(axes: Axes, result: Result, direction: str, sources: list[tuple[str, tuple[RankTimeline, ...]]]) -> None:
    """A row a rank and source, the measured above the predicted; within it a band a lane."""
    labels: list[str] = []
    ranks = sorted({timeline.rank for _, timelines in sources for timeline in timelines})
    for rank in ranks[:_RANKS]:
        for source, timelines in sources:
            timeline = next((timeline for timeline in timelines if timeline.rank == rank), None)
            if timeline is None:
                continue
            row = len(labels)
            labels.append(f"rank {rank}, {source}")
            for kind in dict.fromkeys(event.kind for event in timeline.events):
                top, height = _ROWS[lane(kind)]
                spans = [(1e3 * e.start, 1e3 * (e.stop - e.start)) for e in timeline.events if e.kind == kind]
                color = _KINDS.get(kind, _KINDS["post"])
                fill = "none" if kind == "wait" else color
                hatch = "//////" if kind == "wait" else None
                alpha = 1.0 if source == "measured" else 0.6
                axes.broken_barh(
                    spans, (row + top, height), facecolor=fill, edgecolor=color, hatch=hatch, linewidth=0.6, alpha=alpha
                )
    more = f" (the first {_RANKS} of {len(ranks)} ranks)" if len(ranks) > _RANKS else ""
    axes.set_title(
        f"{result.schedule}, {direction}, over time{more}", loc="left", fontsize=11, fontweight="bold", color=_INK
    )
    axes.set_yticks([row + 0.42 for row in range(len(labels))], labels=labels, fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(labels), -0.1)
    axes.set_xlim(left=0)
    axes.set_xlabel("ms", fontsize=9, color=_FAINT)
    axes.grid(axis="x", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    _kinds_legend(axes, {event.kind for _, timelines in sources for of in timelines for event in of.events})


def _kinds_legend(axes: Axes, kinds: set[str]) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor="none" if kind == "wait" else color, edgecolor=color, hatch="/////" if kind == "wait" else None)
        for kind, color in _KINDS.items()
        if kind in kinds
    ]
    words = [kind for kind in _KINDS if kind in kinds]
    axes.legend(handles, words, loc="lower right", bbox_to_anchor=(1, 1), fontsize=9, frameon=False, ncols=len(words))
