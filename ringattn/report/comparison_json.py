"""A comparison as JSON lines: the setup first, then a schedule a line, so that a run can be read while it goes on.

Times are seconds with all their digits, so that what is read equals what was written. An event is a list in the order
of `Event`'s fields. Numbers that JSON does not have are the strings `NaN`, `Infinity` and `-Infinity`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from ringattn.planner.timeline import Event, RankTimeline
from ringattn.report.comparison import Comparison, LinkLoad, Pass, Result, Setup

# Of the form of the file. A change that older readers would misread counts it up.
VERSION = 1

_TUPLES = ("sent", "received", "up", "down", "exposed", "predicted_exposed")


def write(comparison: Comparison, path: Path, *, timelines: bool = True) -> None:
    """Write all lines; without timelines a file is smaller and is read back with empty ones."""
    lines = [setup_line(comparison.setup), *(result_line(r, timelines=timelines) for r in comparison.results)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read(path: Path) -> Comparison:
    """The comparison of a file.

    Raises:
        ValueError: the file is of another version, or a line is broken or missing.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines:
        raise ValueError(f"{path} is empty: expected the setup of a comparison in its first line")
    first = _decoded(path, 1, lines[0])
    version = first.pop("version", None)
    if first.pop("comparison", None) != "ringattn" or version != VERSION:
        raise ValueError(
            f"{path} is no comparison of version {VERSION} (its first line says version {version}): "
            "run `ringattn compare` again, or read it with the release that wrote it"
        )
    setup = _built(path, 1, lambda: Setup(**{**first, "hosts": tuple(first["hosts"])}))
    results = []
    for number, line in enumerate(lines[1:], start=2):
        found = _decoded(path, number, line)
        results.append(_built(path, number, partial(result_from, found)))
    return Comparison(setup=setup, results=tuple(results))


def setup_line(setup: Setup) -> str:
    """The first line, without its end."""
    return _line({"comparison": "ringattn", "version": VERSION, **_fields(setup)})


def result_line(result: Result, *, timelines: bool = True) -> str:
    """One schedule's line, without its end."""
    return _line(result_fields(result, timelines=timelines))


def result_fields(result: Result, *, timelines: bool = True) -> dict[str, Any]:
    """A result as JSON has it: plain dicts, lists, strings and numbers."""
    if not timelines:
        bare = {name: replace(run, timeline=(), predicted_timeline=()) for name, run in result.passes.items()}
        result = replace(result, **bare)  # type: ignore[arg-type]
    whole = _fields(result)
    for name, run in result.passes.items():
        whole[name] = _fields(run) | {
            "timeline": list(map(_fields, run.timeline)),
            "predicted_timeline": list(map(_fields, run.predicted_timeline)),
            "links": list(map(_fields, run.links)),
        }
    return plain(whole)


def result_from(found: Mapping[str, Any]) -> Result:
    """The result of such fields."""
    whole = dict(found)
    for name in ("forward", "backward"):
        if whole.get(name) is not None:
            whole[name] = _pass_from(whole[name])
    whole["error"] = {name: float(error) for name, error in whole["error"].items()}
    for name in ("peak_buffer_bytes", "peak_memory_bytes"):
        whole[name] = tuple(whole[name])
    return Result(**whole)


def _pass_from(found: Mapping[str, Any]) -> Pass:
    whole = dict(found)
    whole["repeats"] = tuple(tuple(ranks) for ranks in whole["repeats"])
    whole["links"] = tuple(LinkLoad(**link) for link in whole["links"])
    for name in _TUPLES:
        whole[name] = tuple(whole[name])
    for name in ("timeline", "predicted_timeline"):
        whole[name] = tuple(
            RankTimeline(rank["rank"], tuple(Event(*event) for event in rank["events"])) for rank in whole[name]
        )
    return Pass(**whole)


def _fields(value: Any) -> dict[str, Any]:
    """Those of a dataclass, by name, without copies: timelines are long."""
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _line(value: object) -> str:
    return json.dumps(plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def plain(value: Any) -> Any:
    """A value without numbers that JSON lacks: other readers than Python's refuse them."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def _decoded(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}, line {number}: broken JSON ({error.msg}): was the run stopped while it wrote?"
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}, line {number}: expected an object in braces, got {line[:40]}")
    return found


def _built(path: Path, number: int, build: Callable[[], Any]) -> Any:
    try:
        return build()
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path}, line {number}: not what version {VERSION} of a comparison holds ({error})"
        ) from error
