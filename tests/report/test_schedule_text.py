"""The table of a schedule: what each rank does in each step, written out for worlds that fit on a line."""

import subprocess
import sys

import pytest

from ringattn.report.schedule import describe, figures, legend, name_chunks, spread, summary
from ringattn.schedule import make_schedule, schedules
from ringattn.schedule.value import Kind, Move, Schedule, Shape, Side, Step, Task
from ringattn.schedule.verify import verify

PAIR = Shape(2, query_heads=2, key_heads=2, chunks_per_rank=2)


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()][2:]


def test_tokenring_of_two_ranks_forward():
    assert lines(describe(make_schedule("tokenring", PAIR))) == [
        "0 0 q0 x kv0 q0 to 1 q1 from 1",
        "1 q1 x kv1 q1 to 0 q0 from 0",
        "1 0 q1 x kv0 out1 to 1 by step 2 -",
        "1 q0 x kv1 out0 to 0 by step 2 -",
        "2 0 - - out0 from 1",
        "1 - - out1 from 0",
    ]


def test_ring_of_two_ranks_sends_gradients_home_only_in_the_backward():
    ring = make_schedule("ring", PAIR)
    assert lines(describe(ring))[-1] == "2 all - - -"
    assert lines(describe(ring, backward=True))[-2:] == [
        "2 0 - dkv1 to 1 dkv0 from 1",
        "1 - dkv0 to 0 dkv1 from 0",
    ]


def test_head_groups_and_parts_of_a_shard_are_named():
    first = Task(0, (0, 1), (0,), 0)
    slow = Move(0, 1, Kind.PARCEL, Side.KEY, (1,), 1, 1)
    schedule = Schedule("x", 2, 2, ((0, 3), (3, 4)), (Step((first,), (slow,)), Step((), ())))
    assert lines(describe(schedule)) == [
        "0 0 q0 x kv0a h0 kv0b h1 to 1 by step 1 -",
        "1 1 - - kv0b h1 from 0",
    ]
    assert "query heads: h0 0-2, h1 3" in legend(schedule)


@pytest.mark.parametrize(
    ("each", "chunks", "names"),
    [
        (1, [0, 2], ["0", "2"]),
        (2, [0, 1, 2], ["0", "1a"]),
        (8, [0, 2, 7], ["0ach"]),
        (8, [8, 9, 10, 11, 12], ["1a-e"]),
        (30, [0, 29], ["0.0.29"]),
    ],
)
def test_chunks_are_named_by_their_owner(each, chunks, names):
    schedule = Schedule("x", 4, each, ((0, 1),), ())
    assert [name for _, name in name_chunks(schedule, chunks)] == names


def test_many_ranks_are_summed_up():
    text = describe(make_schedule("tokenring", Shape(64)))
    assert lines(text)[0].split() == ["0", "64", "4", "128", "0", "0"]
    assert "..." in text and len(text.splitlines()) == 27
    assert summary(make_schedule("tokenring", Shape(9))) == describe(make_schedule("tokenring", Shape(9)))


def test_figures_are_those_of_the_verifier():
    counted = verify(make_schedule("tokenring", PAIR))
    text = figures(counted, counted)
    assert "sent by a rank             4 chunks   4 B" in text


def test_a_spread_is_one_number_where_all_are_alike():
    assert spread([3, 3]) == "3"
    assert spread([0, 2048], unit="bytes") == "0 B to 2.0 KiB"


@pytest.mark.parametrize("name", schedules())
@pytest.mark.parametrize("world", [1, 3, 4, 9])
def test_every_schedule_has_a_table(name, world):
    spec = f"grid:heads=1,queries={world},keys=1" if name == "grid" else name
    for backward in (False, True):
        assert describe(make_schedule(spec, Shape(world, 4, 2)), backward=backward)


def test_reading_a_schedule_needs_no_torch():
    code = (
        "import sys, ringattn.report.schedule, ringattn.report.schedule_picture as picture\n"
        "from ringattn.schedule import make_schedule\n"
        "from ringattn.schedule.value import Shape\n"
        "picture.draw(make_schedule('usp', Shape(4, 4, 4)))\n"
        "assert not {'torch', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
