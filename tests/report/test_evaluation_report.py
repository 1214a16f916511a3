"""An evaluation as tables and JSON, from figures that are written out."""

import json
import math
from dataclasses import replace

import pytest

from ringattn.evaluation.perplexity import LengthReport, Span
from ringattn.evaluation.result import Evaluation, Score, Setup
from ringattn.report import evaluation_json
from ringattn.report.evaluation_report import write_evaluation
from ringattn.report.evaluation_table import evaluation_text

SETUP = Setup(
    name="tuned",
    command="ringattn eval",
    started="2026-11-23T10:00:00+00:00",
    seconds=3.2,
    ranks=2,
    hosts=("a", "a"),
    text="book.txt",
    settings={"lengths": "1k,2k"},
    hardware={"cores": "2"},
    versions={"torch": "2"},
    commit="abc",
    notes=("warning: far",),
)


def a_span(start, stop, perplexity, error=None):
    return Span(start=start, stop=stop, tokens=4, loss=math.log(perplexity), standard_error=error)


def a_length(length, perplexity):
    quarters = tuple(a_span(length * q // 4, length * (q + 1) // 4, perplexity - q) for q in range(4))
    ranges = tuple(a_span(s, t, perplexity) for s, t in ((0, 1024), (1024, 2048)) if s < length)
    whole = a_span(0, length, perplexity, error=0.1)
    return LengthReport(length=length, sequences=2, whole=whole, ranges=ranges, quarters=quarters)


def a_score(length, score, name="0 %", loss=0.5):
    return Score(
        task="passkey",
        name=name,
        place=0.0,
        length=length,
        samples=3,
        score=score,
        standard_error=None if score == 1 else 0.2,
        loss=loss,
        expected="12",
        written="13",
    )


MADE = Evaluation(
    setup=SETUP,
    perplexity=(a_length(1024, 20.0), a_length(2048, 10.0)),
    scores=(a_score(1024, 1.0), a_score(2048, 0.5), a_score(1024, 0.0, name="100 %")),
    harness={"sky": {"acc": 0.25}},
)
OTHER = replace(
    MADE, setup=replace(SETUP, name="before"), perplexity=(a_length(1024, 40.0),), scores=(a_score(1024, 0),)
)


def lines(text, start):
    return next(line.split() for line in text.splitlines() if line.lstrip().startswith(start))


def test_rows_are_lengths_positions_and_cases():
    text = evaluation_text(MADE)
    for start, row in (
        ("1,024  ", "1,024 2 20.00 ± 2.00 20.00 19.00 18.00 17.00"),
        ("0 to 1,023", "0 to 1,023 20.00 10.00"),
        ("1,024 to 2,047", "1,024 to 2,047 10.00"),
        ("0 % ", "0 % 100 50 ± 20"),
        ("mean", "mean 50 50"),
        ("sky", "sky acc 0.2500"),
    ):
        assert " ".join(lines(text, start)) == row
    assert text.splitlines()[0] == "tuned: 2 ranks, 3 s, CPU" and text.endswith("warning: far")


def test_another_evaluation_s_figures_stand_in_brackets_where_it_has_them():
    text = evaluation_text(MADE, OTHER)
    quarters = "20.00 (40.00) 19.00 (39.00) 18.00 (38.00) 17.00 (37.00)"
    assert " ".join(lines(text, "1,024  ")) == f"1,024 2 20.00 ± 2.00 (40.00 ± 4.00) {quarters}"
    assert " ".join(lines(text, "2,048  ")) == "2,048 2 10.00 ± 1.00 10.00 9.00 8.00 7.00"
    assert " ".join(lines(text, "0 % ")) == "0 % 100 (0) 50 ± 20"


def test_what_is_written_is_read_back(tmp_path):
    odd = replace(MADE, scores=(a_score(1024, 1.0, loss=math.inf),))
    write_evaluation(odd, tmp_path / "new", OTHER)
    assert evaluation_json.read(tmp_path / "new") == odd
    found = json.loads((tmp_path / "new" / "result.json").read_text())
    assert found["perplexity"][1]["quarters"][3]["perplexity"] == pytest.approx(7.0)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "is no JSON"),
        ("[]", "is no evaluation of version 1"),
        ('{"evaluation": "ringattn", "version": 2}', "is no evaluation of version 1"),
        ('{"evaluation": "ringattn", "version": 1}', "not what version 1 of an evaluation holds"),
    ],
)
def test_a_file_that_is_no_evaluation_is_refused(tmp_path, content, told):
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(ValueError, match=told):
        evaluation_json.read(tmp_path)
