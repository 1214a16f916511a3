"""JSON lines of a comparison: read back they are equal, and what cannot be read is refused in one line."""

import json
import math
from dataclasses import replace

import pytest
from made_comparison import made_comparison

from ringattn.report.comparison import Comparison, Result
from ringattn.report.comparison_json import read, result_line, setup_line, write


@pytest.fixture
def path(tmp_path):
    return tmp_path / "report.jsonl"


def test_what_is_read_equals_what_was_written(path):
    made = made_comparison()
    write(made, path)
    assert read(path) == made


def test_a_line_a_schedule_after_the_setup(path):
    made = made_comparison()
    write(made, path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines == [setup_line(made.setup), *map(result_line, made.results)]
    first, *others = map(json.loads, lines)
    assert (first["comparison"], first["version"], first["ranks"]) == ("ringattn", 1, 4)
    assert [line["schedule"] for line in others] == ["ring", "tokenring", "ulysses", "biring"]


def test_timelines_can_be_left_out(path):
    made = made_comparison()
    write(made, path, timelines=False)
    found = read(path)
    bare = [
        replace(r, **{name: replace(run, timeline=(), predicted_timeline=()) for name, run in r.passes.items()})
        for r in made.results
    ]
    assert found == Comparison(setup=made.setup, results=tuple(bare))


def test_no_number_and_infinity_are_kept_in_plain_json(path):
    made = made_comparison(schedules=())
    write(replace(made, results=(Result(schedule="a", error={"out": math.nan, "dq": math.inf}),)), path)
    for line in path.read_text(encoding="utf-8").splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    error = read(path).results[0].error
    assert math.isnan(error["out"]) and error["dq"] == math.inf


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: [], "is empty: expected the setup"),
        (lambda lines: [lines[0].replace('"version":1', '"version":2'), *lines[1:]], r"says version 2\)"),
        (lambda lines: lines[1:], "is no comparison of version 1"),
        (lambda lines: [*lines[:2], lines[2][:50]], "line 3: broken JSON .* was the run stopped while it wrote"),
        (lambda lines: [*lines, "[1]"], "line 6: expected an object in braces, got"),
        (lambda lines: [*lines, '{"schedule":"x"}'], "line 6: not what version 1 of a comparison holds"),
        (lambda lines: [lines[0].replace('"batch":1,', ""), *lines[1:]], "line 1: not what .* 'batch'"),
    ],
)
def test_what_cannot_be_read_is_refused(path, change, words):
    write(made_comparison(), path)
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(change(lines)), encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        read(path)
