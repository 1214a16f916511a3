"""All forms of an evaluation in one folder."""

from __future__ import annotations

from pathlib import Path

from ringattn.evaluation.result import Evaluation
from ringattn.report import evaluation_json
from ringattn.report.evaluation_picture import draw_evaluation
from ringattn.report.evaluation_table import evaluation_text


def write_evaluation(evaluation: Evaluation, folder: Path, other: Evaluation | None = None) -> list[Path]:
    """Write result.json, result.txt and the pictures into a folder, made where it is missing; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    values, text = folder / evaluation_json.FILE, folder / "result.txt"
    evaluation_json.write(evaluation, values)
    text.write_text(evaluation_text(evaluation, other) + "\n", encoding="utf-8")
    return [values, text, *draw_evaluation(evaluation, folder, other)]
