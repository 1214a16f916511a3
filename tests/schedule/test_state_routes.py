"""Routes of states as values: what they do, how many bytes that is, and the faults that the verifier finds."""

from dataclasses import replace

import pytest

from ringattn.schedule.states import (
    Advance,
    Carried,
    Carry,
    Join,
    StateSizes,
    StateStep,
    Transition,
    fitted_route,
    make_state_route,
    parse_state_route,
    promised_bytes,
    state_routes,
    state_slices,
    verify_state_route,
)
from ringattn.sequence.layout import LAYOUTS, make_layout
from ringattn.sequence.stretches import stretches

SIZES = StateSizes(batch=1, heads=8, key_dim=16, value_dim=32, transition=Transition.DENSE)
STATE, TRANSITION = 8 * 16 * 32 * 4, 8 * 16 * 16 * 4


def test_chunks_that_follow_each_other_on_a_rank_are_one_stretch():
    assert [stretch.rank for stretch in stretches(make_layout("contiguous", 16, 3))] == [0, 1, 2]
    zigzag = stretches(make_layout("zigzag", 12, 3))
    assert [(stretch.rank, stretch.chunks) for stretch in zigzag] == [
        (0, (0,)), (1, (2,)), (2, (4, 5)), (1, (3,)), (0, (1,)),
    ]  # fmt: skip
    # Two tokens over zigzag's six chunks: the empty ones are passed over.
    assert [stretch.rank for stretch in stretches(make_layout("zigzag", 2, 3))] == [0, 1]


@pytest.mark.parametrize("route", ["allgather", "ring", "scan", "pipeline", "pipeline:slices=16"])
def test_every_route_is_proven_for_every_layout_of_runs(route):
    for layout in sorted(set(LAYOUTS) - {"striped"}):
        for world in (1, 2, 3, 5, 8, 16, 33):
            for length in (0, 1, world, 64 * world):
                holders = tuple(stretch.rank for stretch in stretches(make_layout(layout, length, world)))
                for order in (holders, holders[::-1]):
                    verify_state_route(make_state_route(route, world, order), SIZES)


def test_bytes_by_hand():
    contiguous = (0, 1, 2, 3)
    # The ring sends the state from each rank to the next, in whole or in slices.
    for route in ("ring", "pipeline", "pipeline:slices=32"):
        assert promised_bytes(route, 4, contiguous, SIZES, backward=False).sent == (STATE,) * 3 + (0,)
        assert promised_bytes(route, 4, contiguous, SIZES, backward=True).sent == (0,) + (STATE,) * 3
    # Effects go to the ranks behind; the first rank's state is zero, so its transition stays.
    gathered = promised_bytes("allgather", 4, contiguous, SIZES, backward=False)
    assert gathered.sent == (3 * STATE, 2 * (STATE + TRANSITION), STATE + TRANSITION, 0)
    assert gathered.received == (0, STATE, 2 * STATE + TRANSITION, 3 * STATE + 2 * TRANSITION)


def test_a_scan_takes_as_many_exchanges_as_the_logarithm_of_the_ranks():
    for world, exchanges in ((2, 1), (3, 2), (4, 2), (5, 3), (9, 4), (64, 6)):
        steps = make_state_route("scan", world, tuple(range(world))).steps
        assert sum(bool(step.moves) for step in steps) == exchanges
    # Of four ranks each sends to the next and to the one behind that: the first two have states by then.
    sent = promised_bytes("scan", 4, (0, 1, 2, 3), SIZES, backward=False).sent
    assert sent == (2 * STATE, 2 * STATE + TRANSITION, STATE + TRANSITION, 0)


def test_a_state_is_cut_by_heads_and_then_by_columns():
    assert state_slices(8, 32, 3) == [((0, 3), (0, 32)), ((3, 6), (0, 32)), ((6, 8), (0, 32))]
    assert state_slices(1, 32, 2) == [((0, 1), (0, 16)), ((0, 1), (16, 32))]


def test_a_pipeline_without_a_number_has_as_many_slices_as_the_state_has():
    assert [fitted_route("pipeline", heads, 1) for heads in (8, 2)] == ["pipeline", "pipeline:slices=2"]
    with pytest.raises(ValueError, match="1 heads and 3 value columns can be cut into 3 slices at most, got 4"):
        fitted_route("pipeline:slices=4", 1, 3)


def test_a_pipeline_has_all_ranks_at_work_at_the_same_time():
    steps = make_state_route("pipeline:slices=3", 4, (0, 1, 2, 3)).steps
    assert [sorted(task.rank for task in step.tasks) for step in steps] == [[0], [0, 1], [0, 1, 2], [1, 2], [2]]


def test_the_verifier_names_the_first_fault():
    ring = make_state_route("ring", 3, (0, 1, 2))
    carry = Carry(0, 2, Carried.STATE, 2, 0, 2)
    cases = {
        "rank 2 never has the state that enters stretch 2": ring.steps[:1],
        "step 1: rank 0 sends rank 2 the state of stretch 2, which it does not have": (StateStep((), (carry,)),),
        "step 3: rank 1 sends rank 2 the state of stretch 2, which it has already": (*ring.steps, ring.steps[1]),
        "step 1: rank 1 takes slice 0 past stretch 1, and does not have the state that enters it": ring.steps[1:],
        "step 1: rank 1 takes slice 0 past stretch 0, whose effect it does not have": (
            StateStep((Advance(1, 0, 0, 0),), ()),
        ),
        "step 1: rank 0 joins the effects of stretch 1 and of stretch 2, and does not have both": (
            StateStep((Join(0, 1, 2, 2),), ()),
        ),
    }
    for said, steps in cases.items():
        with pytest.raises(ValueError, match=said):
            verify_state_route(replace(ring, steps=steps))


def test_names():
    assert state_routes() == ["allgather", "pipeline", "ring", "scan"]
    assert parse_state_route("pipeline:slices=7") == ("pipeline", 7)
    for spec, said in {
        "lasp": "unknown state route 'lasp'",
        "ring:slices=2": "only pipeline takes a number",
        "pipeline:slices=0": "slices must be a whole number from 1 on, got '0'",
    }.items():
        with pytest.raises(ValueError, match=said):
            parse_state_route(spec)
