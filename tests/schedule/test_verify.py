"""The verifier finds seeded faults, each named in plain words."""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringattn import Mask
from ringattn.schedule import make_schedule, schedules
from ringattn.schedule.build import Builder
from ringattn.schedule.prune import prune
from ringattn.schedule.value import Kind, Move, Schedule, Shape, Side, Step
from ringattn.schedule.verify import ScheduleError, verify
from ringattn.sequence.blocks import visible_blocks
from ringattn.sequence.layout import LAYOUTS, make_layout

RING = make_schedule("ring", Shape(3, chunks_per_rank=1))
TOKENRING = make_schedule("tokenring", Shape(3, chunks_per_rank=1))


def with_step(schedule: Schedule, index: int, **changes: object) -> Schedule:
    steps = list(schedule.steps)
    steps[index] = steps[index]._replace(**changes)
    return replace(schedule, steps=tuple(steps))


def fault(schedule: Schedule, **options: object) -> str:
    with pytest.raises(ScheduleError) as error:
        verify(schedule, **options)
    return str(error.value)


def test_a_dropped_move():
    broken = with_step(RING, 0, moves=RING.steps[0].moves[1:])
    assert fault(broken) == (
        "schedule 'ring', step 1: the move of keys and values of chunks 0 (head group 0) from rank 1 to rank 2 that "
        "starts here is wrong: the keys and values of chunk 0 (head group 0) are not at rank 1 then: "
        "no move brings them"
    )


def test_a_dropped_last_move():
    broken = with_step(RING, 1, moves=())
    assert "rank 0 computes queries of chunks 0 with keys of chunks 1, but the keys and values of chunk 1" in fault(
        broken
    )
    assert fault(broken).endswith("no move brings them")


def test_a_block_computed_twice():
    again = RING.steps[0].tasks[0]
    broken = with_step(RING, 2, tasks=(*RING.steps[2].tasks, again))
    assert fault(broken) == (
        "schedule 'ring', step 2: rank 0 computes the block of query chunk 0 with key chunk 0 (head group 0) a second "
        "time; a block must be computed once"
    )


def test_a_block_that_nobody_computes():
    broken = with_step(RING, 2, tasks=RING.steps[2].tasks[1:])
    assert "nobody computes the block of query chunk 0 with key chunk 1 (head group 0); 1 blocks are missing" in fault(
        broken
    )


def test_a_partial_that_never_gets_home():
    last = TOKENRING.steps[2].moves
    broken = with_step(TOKENRING, 2, moves=last[1:])
    text = fault(broken)
    assert "the result of query results of chunk" in text and "never gets home to rank" in text


def test_a_gradient_that_never_gets_home_shows_in_the_backward_alone():
    broken = with_step(RING, 3, moves=())
    verify(broken)
    assert "the result of key and value gradients of chunk" in fault(broken, backward=True)


def test_a_partial_sent_twice():
    home = TOKENRING.steps[2].moves[0]
    broken = with_step(TOKENRING, 3, moves=(*TOKENRING.steps[3].moves, home._replace(due=3)))
    assert "has no result for chunk" in fault(broken) and "it was sent before" in fault(broken)


def test_a_partial_sent_before_it_is_made():
    early = TOKENRING.steps[2].moves[0]._replace(due=1)
    broken = with_step(TOKENRING, 1, moves=(*TOKENRING.steps[1].moves, early))
    assert "nothing was computed for it there yet" in fault(broken)


def test_a_self_send():
    mine = Move(1, 1, Kind.PARCEL, Side.KEY, (1,), 0, 0)
    broken = with_step(RING, 0, moves=(*RING.steps[0].moves, mine))
    assert fault(broken).endswith("a rank does not send to itself")


def test_a_late_parcel():
    late = tuple(m._replace(due=1) for m in RING.steps[0].moves)
    text = fault(with_step(RING, 0, moves=late))
    assert "they arrive when step 1 ends (sent in step 0), too late" in text


def test_a_parcel_sent_too_late():
    steps = list(RING.steps)
    moves = tuple(m._replace(due=2) for m in steps[1].moves if m.kind is Kind.PARCEL)
    steps[1] = steps[1]._replace(moves=())
    steps[2] = Step(steps[2].tasks, (*steps[2].moves, *moves))
    assert "they arrive when step 2 ends (sent in step 2), too late" in fault(replace(RING, steps=tuple(steps)))


def test_a_parcel_brought_twice():
    again = RING.steps[0].moves[0]._replace(due=1)
    broken = with_step(RING, 1, moves=(*RING.steps[1].moves, again))
    assert "already has what it brings of chunk 0" in fault(broken)


def test_a_parcel_brought_to_its_owner():
    back = Move(1, 0, Kind.PARCEL, Side.KEY, (0,), 0, 1)
    broken = with_step(RING, 1, moves=(*RING.steps[1].moves, back))
    assert fault(broken).endswith("chunk 0 is rank 0's own")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"target": 3}, "there are ranks 0 to 2 only"),
        ({"due": 9}, "it is due at the end of step 9, which is not one of steps 0 to 3"),
        ({"heads": 4}, "it names no chunk, or a rank or a head group that is not there"),
        ({"chunks": ()}, "it names no chunk, or a rank or a head group that is not there"),
    ],
)
def test_moves_that_make_no_sense(change, text):
    broken = with_step(RING, 0, moves=(RING.steps[0].moves[0]._replace(**change), *RING.steps[0].moves[1:]))
    assert text in fault(broken)


def test_head_groups_that_overlap():
    assert "follow one another without gap or overlap" in fault(replace(RING, heads=((0, 2), (1, 3))))


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from([s for s in schedules() if s != "grid"]), st.integers(2, 6))
def test_no_random_deletion_goes_unnoticed(rng: random.Random, name: str, world: int):
    schedule = make_schedule(name, Shape(world, 4, 4))
    places = [(i, j) for i, step in enumerate(schedule.steps) for j in range(len(step.moves))]
    i, j = rng.choice(places)
    moves = schedule.steps[i].moves
    broken = with_step(schedule, i, moves=(*moves[:j], *moves[j + 1 :]))
    with pytest.raises(ScheduleError):
        verify(broken, backward=True)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([s for s in schedules() if s != "grid"]),
    st.sampled_from(LAYOUTS),
    st.integers(1, 7),
    st.integers(0, 40),
    st.booleans(),
    st.one_of(st.none(), st.integers(1, 30)),
    st.lists(st.integers(0, 40), max_size=3),
)
def test_pruned_for_any_mask_every_schedule_stays_correct(name, layout, world, length, causal, window, cuts):
    documents = (0, *sorted(min(cut, length) for cut in cuts), length) if cuts else None
    mask = Mask(causal, window, documents)
    cut = make_layout(layout, length, world)
    schedule = make_schedule(name, Shape(world, 4, 2, cut.chunks_per_rank))
    cut = cut.refine(schedule.chunks_per_rank // cut.chunks_per_rank)
    visible = visible_blocks(mask, cut, cut)
    pruned = prune(schedule, visible)
    for backward in (False, True):
        after = verify(pruned, visible, backward=backward)
        before = verify(schedule, backward=backward)
        assert sum(after.sent) <= sum(before.sent)


def test_pruning_drops_what_nobody_needs():
    # Causal and contiguous: rank 0's keys go everywhere, the last rank's nowhere.
    cut = make_layout("contiguous", 8, 4)
    pruned = prune(make_schedule("ring", Shape(4)), visible_blocks(Mask(), cut, cut))
    receivers = {
        chunk: {m.target for s in pruned.steps for m in s.moves if m.kind is Kind.PARCEL and chunk in m.chunks}
        for chunk in range(8)
    }
    assert receivers[0] == {1, 2, 3} and receivers[2] == {2, 3} and receivers[6] == set()


def test_pruning_to_nothing():
    schedule = make_schedule("ring", Shape(3))
    assert prune(schedule, np.zeros((6, 6), dtype=bool)).steps == ()


def test_a_user_s_own_schedule_is_checked_like_any():
    plan = Builder("mine", Shape(2, chunks_per_rank=1))
    for rank in range(2):
        plan.compute(0, rank, queries=(rank,), keys=(rank,))
        plan.send(0, rank, 1 - rank, Side.KEY, (rank,))
        plan.compute(1, rank, queries=(rank,), keys=(1 - rank,))
    assert verify(plan.build()).sent == (1, 1)
    assert "never gets home" in fault(plan.build(), backward=True)
