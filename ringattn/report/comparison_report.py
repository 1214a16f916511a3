"""All forms of a comparison in one folder."""

from __future__ import annotations

from pathlib import Path

from ringattn.report import comparison_json
from ringattn.report.comparison import Comparison
from ringattn.report.comparison_page import write_page
from ringattn.report.comparison_picture import draw_comparison
from ringattn.report.comparison_table import comparison_table
from ringattn.report.comparison_trace import write_trace


def write_report(comparison: Comparison, folder: Path) -> list[Path]:
    """Write report.jsonl, report.txt, report.html, trace.json and report.png, the picture only where a schedule was
    run; the paths, in this order. The folder is made where it is missing, and older files of these names go."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("report.jsonl", "report.txt", "report.html", "trace.json", "report.png")
    lines, table, page, trace, picture = (folder / name for name in names)
    comparison_json.write(comparison, lines)
    table.write_text(comparison_table(comparison) + "\n", encoding="utf-8")
    write_page(comparison, page)
    write_trace(comparison, trace)
    if not any(result.passes for result in comparison.results):
        picture.unlink(missing_ok=True)
        return [lines, table, page, trace]
    draw_comparison(comparison, picture)
    return [lines, table, page, trace, picture]
