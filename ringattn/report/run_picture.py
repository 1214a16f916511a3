"""The picture of a run: training loss by step and held-out perplexity by position, the bigram in both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from ringattn.evaluation.perplexity import PositionReport
from ringattn.training.metrics import StepMetrics

MODEL, BIGRAM, HELD_OUT, GRID = "#1f5fa8", "#c2571a", "#17202a", "#dddddd"
SMOOTH = 0.8


def draw_run(path: Path, metrics: Sequence[StepMetrics], report: PositionReport, *, title: str, subtitle: str) -> None:
    """Write a PNG, 2,000 pixels wide."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12.5, 5.0), dpi=160, layout="constrained")
    figure.suptitle(f"{title}\n", fontsize=14, fontweight="bold", x=0.01, ha="left")
    figure.text(0.0125, 0.925, subtitle, fontsize=10, color="#555555", ha="left", va="center")
    _draw_loss(left, metrics, report)
    _draw_positions(right, report)
    for axes in (left, right):
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    plt.close(figure)


def smoothed(values: Sequence[float], keep: float = SMOOTH) -> np.ndarray:
    """Exponential moving average without the pull towards its start: each point weighs `keep ** age`."""
    total, weight, line = 0.0, 0.0, []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        line.append(total / weight)
    return np.array(line)


def _draw_loss(axes: Axes, metrics: Sequence[StepMetrics], report: PositionReport) -> None:
    steps = [m.step + 1 for m in metrics]
    losses = [m.loss for m in metrics]
    axes.plot(steps, losses, color=MODEL, alpha=0.3, linewidth=1.2)
    axes.plot(steps, smoothed(losses), color=MODEL, linewidth=2.2, label="training loss, smoothed")
    axes.axhline(
        report.bigram_loss,
        color=BIGRAM,
        linestyle="--",
        linewidth=1.8,
        label=f"bigram model, held-out: {report.bigram_loss:.3f}",
    )
    axes.plot(
        steps[-1],
        report.loss,
        "o",
        color=HELD_OUT,
        markersize=7,
        label=f"held-out loss: {report.loss:.3f}",
        zorder=5,
    )
    axes.set_title("Loss", loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel("step")
    axes.set_ylabel("cross-entropy (nats per token)")
    axes.set_xlim(left=0, right=steps[-1] * 1.03)
    axes.legend(frameon=False, loc="upper right")


def _draw_positions(axes: Axes, report: PositionReport) -> None:
    edges = [r.start for r in report.ranges] + [report.length]
    # Position 0 has no logarithm: the first range is drawn as wide as the second.
    edges[0] = max(1, edges[1] // 2)
    axes.stairs([r.perplexity for r in report.ranges], edges, color=MODEL, linewidth=2.4, label="model", baseline=None)
    axes.stairs(
        [r.bigram_perplexity for r in report.ranges],
        edges,
        color=BIGRAM,
        linestyle="--",
        linewidth=1.8,
        label="bigram model, same tokens",
        baseline=None,
    )
    for r, low, high in zip(report.ranges, edges, edges[1:]):
        axes.annotate(
            f"{r.perplexity:.1f}",
            ((low * high) ** 0.5, r.perplexity),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=MODEL,
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(edges, labels=["0", *(f"{edge:,}" for edge in edges[1:])])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    top = max(max(r.perplexity, r.bigram_perplexity) for r in report.ranges)
    axes.set_ylim(0, top * 1.25)
    axes.set_title("Held-out perplexity by position", loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel("position in the sequence (tokens)")
    axes.set_ylabel("perplexity")
    axes.legend(frameon=False, loc="upper right")
