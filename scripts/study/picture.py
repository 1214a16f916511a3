"""A study as the paper's figures are: recall, needles and language loss over the ratio, a line for each mixer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ringattn.settings.hybrid import FULL
from study.effort import in_order
from study.figures import Found
from study.record import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _FAINT, _GRID = "#1b1f24", "#57606a", "#d9dee3"
_LINES = ("#1f5fa8", "#c2571a", "#2e7d4f", "#8e44ad", "#7f6000", "#17808a", "#a83264", "#555555")
_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")


def draw_study(run: Run, found: Sequence[Found], path: Path) -> None:
    """Write a PNG: recall of the most pairs, recall of all, needles, and language loss where there is one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    most = max(run.effort.pairs)
    panels: list[tuple[str, Callable[[Found], float | None]]] = [
        (f"Recall, all of {', '.join(map(str, sorted(run.effort.pairs)))} pairs", lambda one: one.score("recall")),
        (f"Recall, {most} pairs", lambda one: one.score("recall", lambda figure: figure.place == most)),
    ]
    if run.effort.needles:
        panels.append(("Needles", lambda one: one.score("needle")))
    if any(one.text_loss is not None for one in found):
        panels.append(("Language loss, nats a byte", lambda one: one.text_loss))
    figure = Figure(figsize=(3.6 * len(panels), 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    effort = run.effort
    title = f"Hybrids of {effort.layers} layers, {effort.hidden} wide, trained on {effort.length:,} tokens; "
    title += f"tests of {', '.join(f'{length:,}' for length in effort.lengths)} tokens"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=_INK)
    drawn = figure.subplots(1, len(panels), squeeze=False)[0]
    for number, (axes, (name, value)) in enumerate(zip(drawn, panels)):
        _panel(axes, found, name, value, share=not name.startswith("Language"), ticks=number == 0)
    drawn[0].legend(frameon=False, fontsize=8)
    figure.savefig(path)


def _panel(
    axes: Axes,
    found: Sequence[Found],
    title: str,
    value: Callable[[Found], float | None],
    *,
    share: bool,
    ticks: bool,
) -> None:
    """Ratios across, from no full layer on; full attention is the right end of all lines, and a level to reach."""
    ratios = in_order([one.point.ratio for one in found])
    mixers = list(dict.fromkeys(one.point.mixer for one in found if one.point.mixer is not None))
    whole = next((value(one) for one in found if one.point.ratio == FULL), None)
    for number, mixer in enumerate(mixers):
        points = {one.point.ratio: value(one) for one in found if one.point.mixer == mixer}
        if FULL in ratios:
            points[FULL] = whole
        line = [(ratios.index(ratio), points[ratio]) for ratio in ratios if points.get(ratio) is not None]
        axes.plot(
            [place for place, _ in line],
            [score for _, score in line],  # type: ignore[misc]
            f"-{_MARKS[number % len(_MARKS)]}",
            color=_LINES[number % len(_LINES)],
            markersize=5,
            linewidth=1.8,
            label=mixer,
        )
    if whole is not None:
        axes.axhline(whole, color=_FAINT, linestyle="--", linewidth=1.2, label="full attention")
    axes.set_title(title, loc="left", fontsize=10, color=_INK)
    axes.set_xticks(range(len(ratios)), labels=ratios)
    axes.set_xlabel("linear to full layers", color=_FAINT)
    if share:
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(lambda number, _: f"{100 * number:.0f} %")
    axes.tick_params(labelleft=ticks or not share)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
