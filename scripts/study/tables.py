"""A study as tables and sentences, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise

from ringattn.report.table import table
from study.effort import in_order
from study.figures import Found, mean
from study.record import Run


def told(run: Run, found: Sequence[Found]) -> str:
    """All of it in words: what was trained, one row a model, what the rows say."""
    effort = run.effort
    missing = len(run.points) - len(found)
    about = (
        f"{len(found)} models of {effort.layers} layers, {effort.hidden} wide, trained on {run.date} "
        f"({run.hardware}): {effort.steps:,} steps of {effort.batch} x {effort.length} tokens of recall"
        + ("" if effort.text == "none" else f", {effort.text_steps:,} of {effort.text_batch} x {effort.text_length} ")
        + ("" if effort.text == "none" else "bytes of text")
        + (f"; not trained yet: {missing}" if missing else "")
    )
    parts = [about, _models(run, found)]
    if len(effort.lengths) > 1:
        parts.append(_lengths(run, found))
    return "\n\n".join([*parts, "\n".join(f"- {line}" for line in sentences(run, found))])


def recall(one: Found) -> float:
    """Over all numbers of pairs and all lengths."""
    score = one.score("recall")
    assert score is not None
    return score


def by_ratio(found: Sequence[Found], value: Callable[[Found], float | None]) -> dict[str, float | None]:
    """The mean over mixers at each ratio, from none full to all."""
    ratios = in_order([one.point.ratio for one in found])
    return {ratio: mean([value(one) for one in found if one.point.ratio == ratio]) for ratio in ratios}


def sentences(run: Run, found: Sequence[Found]) -> list[str]:
    """What the figures say, whatever they are."""
    lines = []
    recalled = by_ratio(found, recall)
    if len(recalled) > 1:
        shown = ", ".join(f"{ratio} {_percent(score)}" for ratio, score in recalled.items())
        lines.append(f"recall over all lengths and pairs, mean of mixers: {shown}")
        known = [(ratio, score) for ratio, score in recalled.items() if score is not None]
        rises = [(b[1] - a[1], a[0], b[0]) for a, b in pairwise(known)]
        most, before, after = max(rises)
        if most > 0:
            lines.append(f"it rises most from {before} to {after}, by {100 * most:.0f} points")
        falls = [f"{b} to {c}, by {-100 * a:.0f}" for a, b, c in rises if a <= -0.005]
        if falls:
            lines.append(f"it falls from {' and from '.join(falls)} points")
    for ratio in recalled:
        rivals = [one for one in found if one.point.ratio == ratio and one.point.mixer is not None]
        if len(rivals) > 1:
            order = sorted(rivals, key=recall, reverse=True)
            shown = ", ".join(f"{one.point.mixer} {_percent(recall(one))}" for one in order)
            lines.append(f"{ratio}, from best recall: {shown}")
    losses = by_ratio(found, lambda one: one.text_loss)
    known_losses = [loss for loss in losses.values() if loss is not None]
    if len(known_losses) > 1:
        shown = ", ".join(f"{ratio} {loss:.3f}" for ratio, loss in losses.items() if loss is not None)
        spread = max(known_losses) - min(known_losses)
        lines.append(f"language loss, mean of mixers: {shown}, which is {spread:.3f} nats a byte from best to worst")
    return lines


def as_json(run: Run, found: Sequence[Found]) -> str:
    plain = {
        "date": run.date,
        "hardware": run.hardware,
        "effort": run.effort.plain(),
        "models": [one.plain() for one in found],
        "recall_by_ratio": by_ratio(found, recall),
        "needle_by_ratio": by_ratio(found, lambda one: one.score("needle")),
        "text_loss_by_ratio": by_ratio(found, lambda one: one.text_loss),
        "sentences": sentences(run, found),
    }
    return json.dumps(plain, indent=1)


def _models(run: Run, found: Sequence[Found]) -> str:
    effort = run.effort
    pairs = sorted(effort.pairs)
    header = ["mixer", "ratio", "full layers", "weights", *[f"{n} pairs" for n in pairs], "recall"]
    header += [*(["needle"] if effort.needles else []), "language loss", "seconds"]
    rows = []
    for one in _sorted(found):
        at = [one.score("recall", lambda figure, n=n: figure.place == n) for n in pairs]  # type: ignore[misc]
        rows.append(
            [
                one.point.mixer or "attention",
                one.point.ratio,
                f"{one.full_layers} of {len(one.kinds)}",
                f"{one.parameters:,}",
                *map(_percent, at),
                _percent(recall(one)),
                *([_percent(one.score("needle"))] if effort.needles else []),
                "-" if one.text_loss is None else f"{one.text_loss:.3f}",
                f"{one.seconds:,.0f}",
            ]
        )
    what = "Right answers, mean over all lengths; language loss in nats a byte of held-out text:"
    return f"{what}\n\n{table(header, rows, left=('mixer', 'ratio'))}"


def _lengths(run: Run, found: Sequence[Found]) -> str:
    tasks = ("recall", "needle") if run.effort.needles else ("recall",)
    header = ["mixer", "ratio"]
    header += [f"{task} {length:,}" for task in tasks for length in run.effort.lengths]
    rows = []
    for one in _sorted(found):
        at = [
            one.score(task, lambda figure, n=length: figure.length == n)  # type: ignore[misc]
            for task in tasks
            for length in run.effort.lengths
        ]
        rows.append([one.point.mixer or "attention", one.point.ratio, *map(_percent, at)])
    what = f"By length of the context, in tokens; training had {run.effort.length:,}:"
    return f"{what}\n\n{table(header, rows, left=('mixer', 'ratio'))}"


def _sorted(found: Sequence[Found]) -> list[Found]:
    """Mixer by mixer in the order asked for, each from pure on; full attention last."""
    mixers = list(dict.fromkeys(one.point.mixer for one in found if one.point.mixer is not None))
    ratios = in_order([one.point.ratio for one in found])
    return sorted(
        found,
        key=lambda one: (
            len(mixers) if one.point.mixer is None else mixers.index(one.point.mixer),
            ratios.index(one.point.ratio),
        ),
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"
