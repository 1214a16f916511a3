"""A summary as Markdown, which is what the terminal shows too."""

from __future__ import annotations

from collections.abc import Sequence

from validate.figures import TARGETS, Summary


def told(summary: Summary, *, about: Sequence[str] = ()) -> str:
    """All tables. about: lines ahead of them."""
    return "\n\n".join([*about, _errors(summary), _worst(summary), _picks(summary), _bounds(summary), _gains(summary)])


def every_figure(summary: Summary) -> str:
    """One row for each schedule and direction of each case."""
    rows = [
        [f.case, f.schedule, f.direction, *map(_ms, (f.measured, f.fastest, f.predicted, f.wire_bound)), _off(f.error)]
        for f in summary.figures
    ]
    header = ["case", "schedule", "direction", "measured, ms", "fastest", "predicted", "wire bound", "error"]
    return "Every figure\n\n" + markdown(header, rows)


def _errors(summary: Summary) -> str:
    rows = [
        [f"all {summary.count}, median", _percent(summary.error_median), f"<= {_percent(TARGETS['error, median'])}"],
        ["all, 90th percentile", _percent(summary.error_p90), f"<= {_percent(TARGETS['error, 90th percentile'])}"],
        ["all, median with sign", _off(summary.bias), ""],
    ]
    rows += [[f"{name}, median", _percent(error), ""] for name, error in summary.by_schedule.items()]
    return "Error of prediction, without sign\n\n" + markdown(["of", "error", "target"], rows)


def _worst(summary: Summary) -> str:
    rows = [[f.case, f.schedule, f.direction, _ms(f.measured), _ms(f.predicted), _off(f.error)] for f in summary.worst]
    header = ["case", "schedule", "direction", "measured, ms", "predicted", "error"]
    return f"The worst {len(rows)}\n\n" + markdown(header, rows)


def _picks(summary: Summary) -> str:
    rows = [[p.case, p.direction, p.picked, p.best, f"{p.over_best:.3f}"] for p in summary.picks]
    rows.append(["worst", "", "", "", f"{summary.worst_pick:.3f}"])
    title = f"The planner's pick: its measured time over the best measured (target <= {TARGETS['pick over best']:g})"
    return f"{title}\n\n" + markdown(["case", "direction", "picked", "best", "over best"], rows)


def _bounds(summary: Summary) -> str:
    rows = [
        [
            b.schedule,
            b.direction,
            *(f"{value:.2f}" for value in (b.median, b.worst)),
            b.worst_case,
            *(f"{value:.2f}" for value in (b.predicted_median, b.predicted_worst)),
        ]
        for b in summary.bounds
    ]
    header = ["schedule", "direction", "median", "worst", "of case", "predicted, median", "predicted, worst"]
    title = f"Time over wire bound, measured and predicted (target <= {TARGETS['over wire bound']:g})"
    return f"{title}\n\n" + markdown(header, rows)


def _gains(summary: Summary) -> str:
    rows = []
    for gain in summary.gains:
        wanted = TARGETS[f"tokenring over ring, {gain.direction}"] if _is_its_best(gain.case) else None
        target = "" if wanted is None else f"<= {wanted:g}"
        rows.append([gain.case, gain.schedule, gain.direction, f"{gain.measured:.3f}", f"{gain.predicted:.3f}", target])
    title = "TokenRing's time over ring's"
    return f"{title}\n\n" + markdown(["case", "schedule", "direction", "measured", "predicted", "target"], rows)


def _is_its_best(case: str) -> bool:
    """A link for each pair, as many key heads as query heads, no mask: what TokenRing was made for."""
    return case.startswith("mesh-") and case.endswith("-8-8-full")


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; what begins with a digit or a sign stands to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    right = [bool(rows) and rows[0][column][:1] in set("0123456789+-") for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        aligned = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right))
        return f"| {' | '.join(aligned)} |"

    rule = "|" + "|".join("-" * (w + 1) + (":" if r else "-") for w, r in zip(widths, right)) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}"


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _off(share: float) -> str:
    return f"{share:+.1%}"
