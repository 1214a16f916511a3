"""An evaluation as text: perplexity by length and position, a table of scores for each task, another one beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ringattn.evaluation.perplexity import LengthReport, Span
from ringattn.evaluation.result import Evaluation, Score
from ringattn.report.table import table

# What the rows of a task's table are.
ROWS = {"passkey": "depth", "ruler": "task", "recall": "pairs"}

TITLES = {
    "passkey": "Passkey: answers right, % (samples)",
    "ruler": "RULER-style tasks: answers right, %",
    "recall": "Associative recall: values right, %",
}


def evaluation_text(evaluation: Evaluation, other: Evaluation | None = None) -> str:
    """All tables. other: an earlier evaluation; cells are then `this (other)` where both have the figure."""
    setup = evaluation.setup
    parts = [_headline(evaluation, other)]
    if evaluation.perplexity:
        parts += [_perplexity(evaluation, other), _positions(evaluation.perplexity, other)]
    parts += [_scores(evaluation, other, task) for task in evaluation.tasks]
    if evaluation.harness:
        parts.append(_harness(evaluation.harness, other))
    parts += list(setup.notes)
    return "\n\n".join(parts)


def _headline(evaluation: Evaluation, other: Evaluation | None) -> str:
    setup = evaluation.setup
    line = f"{setup.name}: {setup.ranks} ranks, {setup.seconds:.0f} s, {setup.hardware.get('GPUs') or 'CPU'}"
    return line if other is None else f"{line}\nin brackets: {other.setup.name}, {other.setup.started}"


def _perplexity(evaluation: Evaluation, other: Evaluation | None) -> str:
    """A row for each length: of all tokens, and of each quarter of the window."""
    before = {report.length: report for report in other.perplexity} if other else {}
    rows = []
    for report in evaluation.perplexity:
        twin = before.get(report.length)
        spans = [report.whole, *report.quarters]
        others: Sequence[Span | None] = [twin.whole, *twin.quarters] if twin else [None] * 5
        cells = [_beside(_of_span(span), _of_span(o) if o else None) for span, o in zip(spans, others)]
        rows.append([f"{report.length:,}", f"{report.sequences}", *cells])
    header = ["length", "windows", "perplexity", "first quarter", "second", "third", "last quarter"]
    text = f"Perplexity on {evaluation.setup.text}, ± the standard error over windows"
    return f"{text}\n{table(header, rows)}"


def _positions(reports: Sequence[LengthReport], other: Evaluation | None) -> str:
    """A row for each range of positions of the longest length, a column for each length."""
    before = {report.length: report for report in other.perplexity} if other else {}
    longest = reports[-1]
    rows = []
    for place, span in enumerate(longest.ranges):
        cells = []
        for report in reports:
            mine = _range(report, place)
            twin = before.get(report.length)
            theirs = _range(twin, place) if twin else None
            shown = None if theirs is None else _number(theirs.perplexity)
            cells.append("" if mine is None else _beside(_number(mine.perplexity), shown))
        rows.append([f"{span.start:,} to {span.stop - 1:,}", *cells])
    header = ["position", *(f"of {report.length:,}" for report in reports)]
    return f"Perplexity by position\n{table(header, rows)}"


def _range(report: LengthReport, place: int) -> Span | None:
    return report.ranges[place] if place < len(report.ranges) else None


def _scores(evaluation: Evaluation, other: Evaluation | None, task: str) -> str:
    """A row for each case, a column for each length, the means of each length in the last row."""
    mine = {(score.name, score.length): score for score in evaluation.of(task)}
    theirs = {(score.name, score.length): score for score in other.of(task)} if other else {}
    names = list(dict.fromkeys(name for name, _ in mine))
    lengths = sorted({length for _, length in mine})
    rows = []
    for name in names:
        cells = []
        for length in lengths:
            score, twin = mine.get((name, length)), theirs.get((name, length))
            shown = None if twin is None else _percent(twin.score)
            cells.append("" if score is None else _beside(_of_score(score), shown))
        rows.append([name, *cells])
    if len(names) > 1:
        rows.append(["mean", *(_mean(evaluation.of(task), other.of(task) if other else (), n) for n in lengths)])
    samples = max(score.samples for score in mine.values())
    title = TITLES[task].replace("(samples)", f"({samples} each)")
    error = "" if samples == 1 else ", ± the standard error over samples"
    return f"{title}{error}\n{table([ROWS[task], *(f'{n:,} tokens' for n in lengths)], rows, left=[ROWS[task]])}"


def _mean(scores: Sequence[Score], others: Sequence[Score], length: int) -> str:
    def of(found: Sequence[Score]) -> float | None:
        here = [score.score for score in found if score.length == length]
        return sum(here) / len(here) if here else None

    mine, theirs = of(scores), of(others)
    return _beside(_percent(mine or 0.0), None if theirs is None else _percent(theirs))


def _harness(found: dict[str, dict[str, float]], other: Evaluation | None) -> str:
    before = (other.harness or {}) if other else {}
    rows = []
    for task, metrics in found.items():
        for metric, value in metrics.items():
            twin = before.get(task, {}).get(metric)
            rows.append([task, metric, _beside(f"{value:.4f}", None if twin is None else f"{twin:.4f}")])
    return f"lm-evaluation-harness\n{table(['task', 'metric', 'value'], rows, left=['task', 'metric'])}"


def _of_span(span: Span) -> str:
    if span.standard_error is None:
        return _number(span.perplexity)
    # By the delta method: d exp(x) = exp(x) dx.
    return f"{_number(span.perplexity)} ± {_number(span.perplexity * span.standard_error)}"


def _of_score(score: Score) -> str:
    if not score.standard_error:
        return _percent(score.score)
    return f"{_percent(score.score)} ± {100 * score.standard_error:.0f}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f}"


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "inf"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.2f}" if value < 100 else f"{value:.1f}"


def _beside(mine: str, theirs: str | None) -> str:
    return mine if theirs is None else f"{mine} ({theirs})"
