"""The table and the setup of a comparison as HTML, readable where no script runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from typing import NamedTuple

from ringattn.report.comparison import Comparison, Pass, Result, Setup
from ringattn.report.comparison_summary import DIRECTIONS, decimals, mebibytes, percent

# Of a pass: the header's words, and what they mean.
_PASS_COLUMNS = (
    ("ms", "median over repeats of the slowest rank's time"),
    ("repeats", "fastest and slowest repeat, in ms"),
    ("predicted", "by the simulator, in ms"),
    ("off", "predicted over measured time, less 1"),
    ("of bound", "the larger of the compute and the wire bound, over the time"),
    ("MiB up", "sent to higher ranks, most of any rank"),
    ("MiB down", "sent to lower ranks, most of any rank"),
    ("ms waiting", "for messages, with nothing to compute, most of any rank"),
)

_WHOLE_COLUMNS = (
    ("MiB of buffers", "of messages at the peak, most of any rank"),
    ("MiB at the peak", "of all tensors of the call, most of any rank"),
    ("error", "largest of any tensor against fp64, relative to its largest value"),
)


class Cell(NamedTuple):
    """What is shown, and by what it sorts: None sorts last."""

    words: str
    value: float | None = None
    best: bool = False


def results_table(comparison: Comparison) -> str:
    """One row a schedule, skipped ones last."""
    digits = {
        direction: decimals(1e3 * r.passes[direction].spread[1] for r in comparison.results if direction in r.passes)
        for direction in DIRECTIONS
    }
    rows = []
    for result in sorted(comparison.results, key=lambda result: result.skipped is not None):
        # A long name may break after its marks, and nowhere else.
        breakable = re.sub("([,:=])", r"\1<wbr>", escape(result.schedule))
        name = f'<th scope="row">{breakable}</th>'
        if result.skipped:
            width = len(DIRECTIONS) * len(_PASS_COLUMNS) + len(_WHOLE_COLUMNS)
            reason = f'<td colspan="{width}" class="skipped"><span>skipped: {escape(result.skipped)}</span></td>'
            rows.append(f'<tr class="skipped">{name}{reason}</tr>')
            continue
        cells = []
        for direction in DIRECTIONS:
            best = comparison.fastest(direction) is result
            cells += _pass_cells(result.passes.get(direction), digits[direction], best=best)
        rows.append(f"<tr>{name}{''.join(map(_cell, [*cells, *_whole_cells(result)]))}</tr>")
    return f"<table>\n<thead>\n{_head()}\n</thead>\n<tbody>\n" + "\n".join(rows) + "\n</tbody>\n</table>"


def setup_list(setup: Setup) -> str:
    """Names and values, as a description list."""
    hosts = list(dict.fromkeys(setup.hosts))
    shown: dict[str, str] = {
        "ranks": str(setup.ranks),
        "hosts": ", ".join(hosts[:8]) + (f" and {len(hosts) - 8} more" if len(hosts) > 8 else ""),
        "tokens over all ranks": f"{setup.length:,}",
        "batch": str(setup.batch),
        "query heads": str(setup.query_heads),
        "key heads": str(setup.key_heads),
        "head dim": str(setup.head_dim),
        "dtype": setup.dtype,
        "mask": setup.mask,
        "layout": setup.layout,
        "repeats": str(setup.repeats),
        "cluster": setup.cluster or "none described",
    }
    about: Mapping[str, str] = {"commit": setup.commit, "command": setup.command, "started": setup.started}
    return "\n".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for part in (shown, setup.hardware, setup.versions, about)
        for name, value in part.items()
    )


def _pass_cells(run: Pass | None, digits: int, *, best: bool) -> list[Cell]:
    if run is None:
        return [Cell("-")] * len(_PASS_COLUMNS)

    def ms(seconds: float, mark: bool = False) -> Cell:
        return Cell(f"{1e3 * seconds:,.{digits}f}", seconds, mark)

    low, high = run.spread
    error = run.prediction_error
    up, down, exposed = (max(of, default=0) for of in (run.up, run.down, run.exposed))
    return [
        ms(run.seconds, best),
        Cell(f"{ms(low).words} to {ms(high).words}", high - low),
        Cell("-") if run.predicted is None else ms(run.predicted),
        Cell("-") if error is None else Cell(percent(error, sign=True), error),
        Cell(f"{percent(run.achieved)} {run.bound_by}", run.achieved),
        Cell(mebibytes(up), up),
        Cell(mebibytes(down), down),
        ms(exposed),
    ]


def _whole_cells(result: Result) -> list[Cell]:
    sizes = [max(of, default=None) for of in (result.peak_buffer_bytes, result.peak_memory_bytes)]
    worst = result.worst_error
    return [
        *(Cell("-") if size is None else Cell(mebibytes(size), size) for size in sizes),
        Cell(f"{worst[1]:.1e} {worst[0]}", worst[1]) if worst else Cell("-"),
    ]


def _cell(cell: Cell) -> str:
    value = "" if cell.value is None else f' data-value="{cell.value:.12g}"'
    mark = ' <span class="best">fastest</span>' if cell.best else ""
    return f"<td{value}>{mark}{escape(cell.words)}</td>"


def _head() -> str:
    groups = "".join(
        f'<th scope="colgroup" colspan="{len(_PASS_COLUMNS)}"><span>{name}</span></th>' for name in DIRECTIONS
    )
    whole = f'<th scope="colgroup" colspan="{len(_WHOLE_COLUMNS)}"><span>both</span></th>'
    columns = [("schedule", "its name"), *_PASS_COLUMNS * len(DIRECTIONS), *_WHOLE_COLUMNS]
    heads = "".join(
        f'<th scope="col"><button type="button" title="{escape(meaning)}">{escape(words)}</button></th>'
        for words, meaning in columns
    )
    return f"<tr><td></td>{groups}{whole}</tr>\n<tr>{heads}</tr>"
