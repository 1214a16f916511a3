"""An evaluation as PNGs: perplexity by position, and a heat map for each task; another evaluation beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ringattn.evaluation.perplexity import LengthReport, Span
from ringattn.evaluation.result import Evaluation, Score
from ringattn.report.evaluation_table import ROWS, TITLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _FAINT, _GRID = "#1b1f24", "#57606a", "#d9dee3"
# From none right to all right, told apart by lightness too.
_COLORS = ("#b2182b", "#ef8a62", "#fddbc7", "#d1e5f0", "#67a9cf", "#2166ac")
# The largest perplexity over the smallest from which an even scale would flatten the smaller ones.
_FAR_APART = 8
_LINES = ("#1f5fa8", "#c2571a", "#2e7d4f", "#8e44ad", "#7f6000", "#17808a", "#a83264", "#555555")


def draw_evaluation(evaluation: Evaluation, folder: Path, other: Evaluation | None = None) -> list[Path]:
    """Write `perplexity.png` and `TASK.png` for each task with scores; the paths."""
    written = []
    if evaluation.perplexity:
        written.append(_perplexity(evaluation, other, folder / "perplexity.png"))
    for task in evaluation.tasks:
        written.append(_heat_maps(evaluation, other, task, folder / f"{task}.png"))
    return written


def _figure(width: float, height: float) -> Figure:
    # A figure of its own rather than one of pyplot's: nothing global changes, whatever backend the caller has chosen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=128, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _perplexity(evaluation: Evaluation, other: Evaluation | None, path: Path) -> Path:
    """Left by position, a line for each length; right by length, of all tokens and of the last quarter."""
    figure = _figure(12.5, 4.8)
    figure.suptitle(f"Perplexity on {evaluation.setup.text}", x=0.01, ha="left", fontsize=13, color=_INK)
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
    for number, report in enumerate(evaluation.perplexity):
        color = _LINES[number % len(_LINES)]
        _steps(left, report, color, "-", f"{report.length:,} tokens")
        twin = next((r for r in other.perplexity if r.length == report.length), None) if other else None
        if twin and other:
            _steps(left, twin, color, "--", f"{report.length:,}, {other.setup.name}")
    edges = _edges(evaluation.perplexity[-1])
    left.set_title("By position in the window", loc="left", fontsize=11, color=_INK)
    left.set_xlabel("position (tokens)")
    named = [(evaluation, _LINES[0]), *([(other, _LINES[1])] if other and other.perplexity else [])]
    for one, color in named:
        _by_length(right, one, color)
    right.set_title("By length of the window", loc="left", fontsize=11, color=_INK)
    right.set_xlabel("length (tokens)")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_ylabel("perplexity")
        axes.grid(color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.legend(frameon=False, fontsize=9)
    reports = [report for one, _ in named for report in one.perplexity]
    _readable(left, [span for report in reports for span in report.ranges])
    _readable(right, [span for report in reports for span in (report.whole, report.quarters[-1])])
    left.set_xticks(edges, labels=["0", *(f"{edge:,}" for edge in edges[1:])])
    left.minorticks_off()
    figure.savefig(path)
    return path


def _readable(axes: Axes, drawn: Sequence[Span]) -> None:
    """Perplexities far apart need a logarithm."""
    from matplotlib.ticker import LogLocator, NullLocator

    values = [span.perplexity for span in drawn]
    if max(values) > _FAR_APART * min(values):
        axes.set_yscale("log", nonpositive="clip")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_locator(NullLocator())


def _steps(axes: Axes, report: LengthReport, color: str, style: str, label: str) -> None:
    values = [span.perplexity for span in report.ranges]
    axes.stairs(values, _edges(report), color=color, linestyle=style, linewidth=2.0, label=label, baseline=None)


def _edges(report: LengthReport) -> list[int]:
    """Of the ranges as drawn. Position 0 has no logarithm: the first range is drawn as wide as the second."""
    edges = [span.start for span in report.ranges] + [report.length]
    edges[0] = max(1, edges[1] // 2)
    return edges


def _by_length(axes: Axes, evaluation: Evaluation, color: str) -> None:
    reports, name = evaluation.perplexity, evaluation.setup.name
    lengths = [report.length for report in reports]
    for spans, style, what in (
        ([report.whole for report in reports], "-o", "all tokens"),
        ([report.quarters[-1] for report in reports], "--s", "last quarter"),
    ):
        values = [span.perplexity for span in spans]
        errors = [span.perplexity * (span.standard_error or 0.0) for span in spans]
        axes.errorbar(lengths, values, errors, fmt=style, color=color, capsize=3, markersize=5, label=f"{name}, {what}")
    axes.set_xticks(lengths)
    axes.minorticks_off()


def _heat_maps(evaluation: Evaluation, other: Evaluation | None, task: str, path: Path) -> Path:
    """Cases down, lengths across, the share of right answers as color and number."""
    shown = [(evaluation.setup.name, evaluation.of(task))]
    if other and other.of(task):
        # Before stands on the left.
        shown.insert(0, (other.setup.name, other.of(task)))
    sizes = [(len({s.length for s in scores}), len({s.name for s in scores})) for _, scores in shown]
    width = sum(2.2 + 0.9 * columns for columns, _ in sizes) + 1.0
    figure = _figure(max(6.0, width), 1.6 + 0.38 * max(rows for _, rows in sizes))
    figure.suptitle(TITLES[task].split(",")[0], x=0.01, ha="left", fontsize=13, color=_INK)
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    for place, (one, (name, scores)) in enumerate(zip(axes, shown)):
        image = _heat_map(one, scores, name)
        one.set_ylabel(ROWS[task] if place == 0 else "")
    figure.colorbar(
        image, ax=list(axes), label="answers right", shrink=0.9, format=lambda value, _: f"{100 * value:.0f} %"
    )
    figure.savefig(path)
    return path


def _heat_map(axes: Axes, scores: Sequence[Score], title: str) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    names = list(dict.fromkeys(score.name for score in sorted(scores, key=lambda score: score.place)))
    lengths = sorted({score.length for score in scores})
    grid = np.full((len(names), len(lengths)), np.nan)
    for score in scores:
        grid[names.index(score.name), lengths.index(score.length)] = score.score
    colors = LinearSegmentedColormap.from_list("right", _COLORS)
    image = axes.imshow(grid, cmap=colors, vmin=0, vmax=1, aspect="auto")
    for row, column in zip(*np.nonzero(~np.isnan(grid))):
        value = grid[row, column]
        shade = "white" if value < 0.25 or value > 0.75 else _INK
        axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=9, color=shade)
    axes.set_xticks(range(len(lengths)), labels=[f"{length:,}" for length in lengths])
    axes.set_yticks(range(len(names)), labels=names)
    axes.set_xlabel("length (tokens)", color=_FAINT)
    axes.set_title(title, loc="left", fontsize=10, color=_INK)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return image
