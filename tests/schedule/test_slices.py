"""Slices of heads: the same blocks and bytes, each slice a step behind the one before."""

import pytest

from ringattn.schedule import make_schedule, schedules
from ringattn.schedule.value import Kind, Shape
from ringattn.schedule.verify import verify

NAMES = [name for name in schedules() if name != "grid"]


def test_the_second_slice_is_a_step_behind():
    schedule = make_schedule("ulysses:slices=2", Shape(2, 4, 4, 1))
    assert schedule.heads == ((0, 1), (1, 2), (2, 3), (3, 4))
    assert [sorted((task.rank, task.heads) for task in step.tasks) for step in schedule.steps] == [
        [],
        [(0, 0), (1, 2)],
        [(0, 1), (1, 3)],
        [],
    ]
    # While the first slice is computed, the heads of the second are exchanged.
    assert {move.heads for move in schedule.steps[1].moves if move.kind is Kind.PARCEL} == {1, 3}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("world", [2, 3, 4])
def test_slices_are_correct_and_send_the_same(name, world):
    shape = Shape(world, 16, 8)
    whole, cut = (make_schedule(spec, shape) for spec in (name, f"{name}:slices=2"))

    def sent(schedule, backward):
        def size(kind, side, chunk, group):
            start, stop = schedule.heads[group]
            return stop - start

        return verify(schedule, backward=backward, size=size).sent

    for backward in (False, True):
        assert sent(whole, backward) == sent(cut, backward)


def test_one_slice_is_the_schedule():
    assert make_schedule("ring:slices=1", Shape(3, 4, 4)) == make_schedule("ring", Shape(3, 4, 4))


def test_query_heads_of_a_key_head_stay_together():
    assert make_schedule("ring:slices=3", Shape(2, 12, 4)).heads == ((0, 6), (6, 9), (9, 12))
    with pytest.raises(ValueError, match="slices have whole key heads: schedule 'ulysses' has 1 key heads"):
        make_schedule("ulysses:slices=2", Shape(4, 8, 2))
