"""What a comparison says of itself, and how it says it in a few sentences."""

import math
from dataclasses import replace

import pytest
from made_comparison import made_comparison, made_pass, made_setup

from ringattn.report.comparison import Comparison, Result
from ringattn.report.comparison_summary import decimals, headline, mebibytes, milliseconds, percent, sentences

RUN = replace(
    made_pass("ring", 2, 2, "forward"),
    repeats=((0.010, 0.012), (0.010, 0.020), (0.011, 0.013)),
    compute_bound=0.0104,
    wire_bound=0.0065,
    predicted=0.0117,
)


def comparison(*results):
    return Comparison(setup=made_setup(2), results=results)


def test_a_pass_takes_as_long_as_its_slowest_rank_in_the_median():
    assert RUN.seconds == 0.013
    assert RUN.spread == (0.012, 0.020)
    assert RUN.by_rank == (0.010, 0.013)


def test_the_larger_bound_counts():
    assert (RUN.bound, RUN.bound_by, RUN.achieved) == (0.0104, "compute", pytest.approx(0.8))
    wire = replace(RUN, wire_bound=0.013)
    assert (wire.bound_by, wire.achieved) == ("wire", 1.0)
    assert replace(RUN, wire_bound=None).bound_by == "compute"


def test_a_prediction_is_compared_with_the_median():
    assert RUN.prediction_error == pytest.approx(-0.1)
    assert replace(RUN, predicted=None).prediction_error is None


def test_the_worst_error_is_the_largest_and_no_number_is_worse_still():
    assert Result(schedule="x", error={"out": 1e-3, "dq": 2e-3}).worst_error == ("dq", 2e-3)
    name, error = Result(schedule="x", error={"out": math.nan, "dq": 2e-3}).worst_error
    assert name == "out" and math.isnan(error)
    assert Result(schedule="x").worst_error is None


def test_sentences():
    slower = replace(RUN, repeats=((0.026, 0.026),), predicted=0.039)
    both = comparison(Result(schedule="a", forward=slower), Result(schedule="b", forward=RUN))
    assert sentences(both) == [
        "Fastest forward: b, 13.00 ms; the next, a, takes 100% longer. It reaches 80% of its compute bound.",
        "Predictions were off by 30% in the median; the worst, a forward, was 50% too long.",
    ]
    alone = comparison(Result(schedule="a", forward=replace(RUN, predicted=None)), Result(schedule="b", skipped="why"))
    assert sentences(alone) == [
        "Fastest forward: a, 13.00 ms. It reaches 80% of its compute bound.",
        "Nothing was predicted: no cluster was described.",
    ]
    assert sentences(comparison(Result(schedule="b", skipped="why"))) == ["No schedule was run."]


def test_the_headline_names_both_kinds_of_heads_where_they_differ():
    words = "4 ranks, 32,768 tokens x 1, 32 query and 8 key heads of 128, bfloat16, causal, zigzag"
    assert headline(made_comparison().setup) == words
    assert "32 heads of 128" in headline(made_setup(key_heads=32))


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (milliseconds(0.0123456), "12.35 ms"),
        (milliseconds(1.23456), "1,235 ms"),
        (milliseconds(0.00001), "0.010 ms"),
        (milliseconds(0), "0 ms"),
        (mebibytes(96 * 2**20), "96.0"),
        (mebibytes(2**31), "2,048"),
        (mebibytes(2**10), "0.001"),
        (mebibytes(0), "0.0"),
        (percent(0.714), "71%"),
        (percent(-0.04, sign=True), "-4.0%"),
        (percent(1.5, sign=True), "+150%"),
        (decimals([0.5, 12.0]), 2),
        (decimals([math.inf, 5000]), 0),
    ],
)
def test_figures(shown, words):
    assert shown == words
