"""An evaluation as JSON: written for people's own scripts too, and read back to show another one beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ringattn.evaluation.perplexity import LengthReport, Span
from ringattn.evaluation.result import Evaluation, Score, Setup
from ringattn.report.comparison_json import plain

# Of the form of the file. A change that older readers would misread counts it up.
VERSION = 1
FILE = "result.json"


def write(evaluation: Evaluation, path: Path) -> None:
    """Write all of it; perplexities stand beside the losses that they follow from."""
    whole = plain({"evaluation": "ringattn", "version": VERSION, **asdict(evaluation)})
    for of_file, report in zip(whole["perplexity"], evaluation.perplexity):
        of_file["whole"]["perplexity"] = report.whole.perplexity
        for name in ("ranges", "quarters"):
            for span, made in zip(of_file[name], getattr(report, name)):
                span["perplexity"] = made.perplexity
    path.write_text(json.dumps(plain(whole), indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read(path: Path) -> Evaluation:
    """The evaluation of a file, or of the folder with its result.json.

    Raises:
        ValueError: there is no such file, or it is no evaluation of this version.
    """
    place = path / FILE if path.is_dir() else path
    if not place.is_file():
        raise ValueError(
            f"an earlier evaluation is read from its {FILE}, but {place} is not there: give the folder of an "
            "evaluation or the file in it."
        )
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{place} is no JSON ({error}): give the {FILE} of an evaluation.") from error
    if not isinstance(found, dict) or found.get("evaluation") != "ringattn" or found.get("version") != VERSION:
        raise ValueError(
            f"{place} is no evaluation of version {VERSION}: give the {FILE} that this release's `ringattn eval` wrote."
        )
    try:
        return Evaluation(
            setup=Setup(**{**found["setup"], **{key: tuple(found["setup"][key]) for key in ("hosts", "notes")}}),
            perplexity=tuple(_length(report) for report in found["perplexity"]),
            scores=tuple(Score(**{**score, "loss": float(score["loss"])}) for score in found["scores"]),
            harness=found["harness"],
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{place}: not what version {VERSION} of an evaluation holds ({error})") from error


def _length(found: Mapping[str, Any]) -> LengthReport:
    return LengthReport(
        length=found["length"],
        sequences=found["sequences"],
        whole=_span(found["whole"]),
        ranges=tuple(map(_span, found["ranges"])),
        quarters=tuple(map(_span, found["quarters"])),
    )


def _span(found: Mapping[str, Any]) -> Span:
    values = {name: value for name, value in found.items() if name != "perplexity"}
    error = values["standard_error"]
    return Span(**{**values, "loss": float(values["loss"]), "standard_error": None if error is None else float(error)})
