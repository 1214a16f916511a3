"""The table of a comparison in a terminal."""

from dataclasses import replace

from made_comparison import made_comparison, made_pass, made_setup

from ringattn.report.comparison import Comparison, Result
from ringattn.report.comparison_table import comparison_table

RUN = replace(
    made_pass("ring", 2, 2, "forward"),
    repeats=((0.010, 0.012), (0.012, 0.020), (0.012, 0.013)),
    up=(2**20, 0),
    down=(0, 2**21),
    exposed=(0.001, 0.004),
    compute_bound=0.0104,
    wire_bound=0.0065,
    predicted=0.0117,
)


def blocks(*results):
    text = comparison_table(Comparison(setup=made_setup(2), results=results))
    return [[" ".join(line.split()) for line in block.splitlines()] for block in text.split("\n\n")]


def test_one_schedule():
    ring = Result(
        schedule="ring",
        forward=RUN,
        backward=replace(RUN, repeats=((0.026, 0.026),), wire_bound=None, predicted=None),
        error={"out": 1e-3, "dq": 2.5e-3},
        peak_buffer_bytes=(2**20, 2**21),
        peak_memory_bytes=(2**23, 2**22),
    )
    _, forward, backward, sizes, summary = blocks(ring)
    assert forward[0] == "forward ms repeats predicted off of bound MiB up MiB down ms waiting"
    assert forward[2] == "* ring 13.00 12.00 to 20.00 11.70 -10% 80% compute 1.0 2.0 4.00"
    assert backward[2] == "* ring 26.00 26.00 to 26.00 - - 40% compute 1.0 2.0 4.00"
    assert sizes[2] == "* ring 39.00 2.0 8.0 2.5e-03 dq"
    assert summary[0].startswith("Fastest forward: ring")


def test_the_fastest_of_each_block_is_marked():
    slow = replace(RUN, repeats=((0.030, 0.030),))
    both = Result(schedule="a", forward=RUN, backward=slow), Result(schedule="b", forward=slow, backward=RUN)
    _, forward, backward, *_ = blocks(*both)
    assert [line[0] for line in forward[2:]] == ["*", "b"]
    assert [line[0] for line in backward[2:]] == ["a", "*"]


def test_ranks_are_named_where_they_differ_by_more_than_a_fifth():
    even = replace(RUN, repeats=((0.010, 0.012),))
    assert not any("ranks differ" in block[0] for block in blocks(Result(schedule="a", forward=even)))
    uneven = replace(RUN, repeats=((0.010, 0.0121),))
    found = next(block for block in blocks(Result(schedule="a", forward=uneven)) if "ranks differ" in block[0])
    assert found[2] == "a forward 10.00 ms (rank 0) 12.10 ms (rank 1) 1.21"


def test_skipped_schedules_say_why():
    _, skipped, summary = blocks(Result(schedule="a", skipped="too few heads"))
    assert skipped == ["skipped a: too few heads"]
    assert summary == ["No schedule was run."]


def test_it_fits_into_120_columns():
    names = tuple(f"grid:heads={n},queries=16,keys=16,and=more" for n in range(12))
    text = comparison_table(made_comparison(ranks=8, schedules=names))
    assert max(map(len, text.splitlines())) <= 120
