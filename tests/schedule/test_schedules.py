"""The built-in schedules: what they say, written out for small worlds, and that each of them is correct."""

import time

import pytest

from ringattn import schedules
from ringattn.schedule import make_schedule
from ringattn.schedule.build import split_heads
from ringattn.schedule.grid import grid
from ringattn.schedule.route import disjoint_rings
from ringattn.schedule.value import Kind, Shape, Side, key_heads_of
from ringattn.schedule.verify import verify

NAMES = [*(name for name in schedules() if name != "grid"), "tokenring:back=1", "tokenring:back=2"]


def grid_points(world: int) -> list[str]:
    return [
        f"grid:heads={h},queries={q},keys={world // h // q}"
        for h in range(1, world + 1)
        for q in range(1, world + 1)
        if world % (h * q) == 0
    ]


def computed(spec: str, world: int) -> list[list[tuple[int, tuple, tuple]]]:
    """For each step, what each rank computes, one chunk a rank."""
    schedule = make_schedule(spec, Shape(world, world, world, 1))
    return [sorted((t.rank, t.queries, t.keys) for t in step.tasks) for step in schedule.steps]


def moved(spec: str, world: int, kind: Kind, side: Side) -> list[list[tuple[int, int, tuple]]]:
    """For each step, what travels from where to where."""
    schedule = make_schedule(spec, Shape(world, world, world, 1))
    return [
        sorted((m.source, m.target, m.chunks) for m in step.moves if m.kind is kind and m.side is side)
        for step in schedule.steps
    ]


def test_ring_of_three():
    assert computed("ring", 3) == [
        [(0, (0,), (0,)), (1, (1,), (1,)), (2, (2,), (2,))],
        [(0, (0,), (2,)), (1, (1,), (0,)), (2, (2,), (1,))],
        [(0, (0,), (1,)), (1, (1,), (2,)), (2, (2,), (0,))],
        [],
    ]
    assert moved("ring", 3, Kind.PARCEL, Side.KEY)[:2] == [
        [(0, 1, (0,)), (1, 2, (1,)), (2, 0, (2,))],
        [(0, 1, (2,)), (1, 2, (0,)), (2, 0, (1,))],
    ]
    # Their gradients follow one step behind, and reach home from the last rank.
    assert moved("ring", 3, Kind.PARTIAL, Side.KEY)[2:] == [
        [(0, 1, (2,)), (1, 2, (0,)), (2, 0, (1,))],
        [(0, 1, (1,)), (1, 2, (2,)), (2, 0, (0,))],
    ]


def test_tokenring_of_three():
    assert computed("tokenring", 3) == [
        [(0, (0,), (0,)), (1, (1,), (1,)), (2, (2,), (2,))],
        [(0, (2,), (0,)), (1, (0,), (1,)), (2, (1,), (2,))],
        [(0, (1,), (0,)), (1, (2,), (1,)), (2, (0,), (2,))],
        [],
    ]
    assert moved("tokenring", 3, Kind.PARCEL, Side.QUERY)[:2] == [
        [(0, 1, (0,)), (1, 2, (1,)), (2, 0, (2,))],
        [(0, 1, (2,)), (1, 2, (0,)), (2, 0, (1,))],
    ]
    # Results leave behind their block for home, under way while the next one is computed; keys, and so their
    # gradients, never move.
    assert moved("tokenring", 3, Kind.PARTIAL, Side.QUERY)[1:3] == [
        [(0, 2, (2,)), (1, 0, (0,)), (2, 1, (1,))],
        [(0, 1, (1,)), (1, 2, (2,)), (2, 0, (0,))],
    ]
    for kind in Kind:
        assert not any(moved("tokenring", 3, kind, Side.KEY))


def test_a_tokenring_whose_last_rank_has_queries_straight_from_their_owner():
    """Rank 3 needs queries 0 last: they set out with the tour, and it computes them alone."""
    schedule = make_schedule("tokenring:back=2", Shape(4, chunks_per_rank=1))
    straight = [(i, m.due) for i, step in enumerate(schedule.steps) for m in step.moves
                if (m.kind, m.source, m.target) == (Kind.PARCEL, 0, 3)]  # fmt: skip
    assert straight == [(0, 2)]
    of_rank_3 = [task[1] for step in computed("tokenring:back=2", 4) for task in step if task[0] == 3]
    assert of_rank_3 == [(3,), (2,), (1,), (0,)]
    # Link 3 -> 0 carries the queries of 3 and 2, and the one result.
    assert sum((m.source, m.target) == (3, 0) and m.side is Side.QUERY for s in schedule.steps for m in s.moves) == 3
    assert len(schedule.steps) == len(make_schedule("tokenring", Shape(4)).steps)


def test_biring_halves_the_steps():
    ring, both = (make_schedule(name, Shape(5)) for name in ("ring", "biring"))
    assert sum(bool(step.tasks) for step in ring.steps) == 5
    assert sum(bool(step.tasks) for step in both.steps) == 3


def test_an_even_biring_sends_half_of_the_farthest_shard_each_way():
    schedule = make_schedule("biring", Shape(4, chunks_per_rank=2))
    last = [m for m in schedule.steps[1].moves if m.kind is Kind.PARCEL]
    to_rank_2 = sorted((m.source, m.chunks) for m in last if m.target == 2)
    assert to_rank_2 == [(1, (0,)), (3, (1,))]


def test_ulysses_deals_out_heads():
    schedule = make_schedule("ulysses", Shape(2, 4, 2, 1))
    assert schedule.heads == ((0, 2), (2, 4))
    assert [step.tasks for step in schedule.steps] == [
        (),
        ((0, (0, 1), (0, 1), 0), (1, (0, 1), (0, 1), 1)),
        (),
    ]


def test_an_outer_hop_of_the_double_ring_takes_a_whole_inner_round():
    schedule = make_schedule("doublering:inner=3", Shape(6, chunks_per_rank=1))
    outer = {(m.source, m.target, i, m.due) for i, s in enumerate(schedule.steps) for m in s.moves if m.due > i}
    assert outer == {(r, (r + 3) % 6, 0, 2) for r in range(6)}


def test_one_row_of_tiles_is_tokenring_and_one_column_is_ring_attention():
    shape = Shape(4)
    assert make_schedule("tile:rows=1", shape).steps == make_schedule("tokenring", shape).steps
    tiles, ring = make_schedule("tile:rows=4", shape), make_schedule("ring", shape)
    assert [step.tasks for step in tiles.steps] == [step.tasks for step in ring.steps]


@pytest.mark.parametrize("size", range(2, 15))
def test_rings_share_no_link(size):
    rings = disjoint_rings(size)
    assert all(sorted(ring) == list(range(size)) for ring in rings)
    links = [(ring[i - 1], ring[i]) for ring in rings for i in range(size)]
    assert len(set(links)) == len(links)
    assert len(rings) == max(1, size - 1 - (size % 2 == 0))


@pytest.mark.parametrize("world", [1, 2, 3, 4, 5, 6, 7, 8, 12])
@pytest.mark.parametrize("heads", [(8, 8), (6, 2), (3, 1)])
def test_every_schedule_is_correct(world, heads):
    for spec in [*NAMES, *grid_points(world)]:
        schedule = make_schedule(spec, Shape(world, *heads))
        for backward in (False, True):
            verify(schedule, backward=backward)


@pytest.mark.parametrize("name", ["ring", "tokenring"])
def test_a_ring_holds_two_shards_of_others_at_most(name):
    assert set(verify(make_schedule(name, Shape(8, 8, 8, 2))).peak_parcels) == {2 * 2}


@pytest.mark.parametrize("name", [*NAMES, "grid:heads=4,queries=4,keys=4"])
def test_64_ranks_build_and_verify_within_a_second(name):
    make_schedule.cache_clear()
    start = time.process_time()
    schedule = make_schedule(name, Shape(64, 64, 64))
    verify(schedule)
    # multiring sends each shard in eight slices: eight times the moves.
    assert time.process_time() - start < (2.0 if name == "multiring" else 1.0)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [n for n in NAMES if n != "multiring"])
def test_1024_ranks_build_and_verify_within_30_seconds(name):
    make_schedule.cache_clear()
    start = time.process_time()
    schedule = make_schedule(name, Shape(1024, 1024, 1024))
    verify(schedule)
    make_schedule.cache_clear()
    assert time.process_time() - start < 30.0


@pytest.mark.parametrize(
    ("heads", "groups", "expected"),
    [(8, 4, ((0, 2), (2, 4), (4, 6), (6, 8))), (9, 2, ((0, 5), (5, 9))), (2, 3, ((0, 1), (1, 2), (2, 2)))],
)
def test_heads_are_dealt_out_evenly(heads, groups, expected):
    assert split_heads(heads, groups) == expected


def test_a_key_head_goes_wherever_a_query_head_needs_it():
    assert [key_heads_of(group, 3) for group in ((0, 5), (5, 9), (9, 9))] == [(0, 2), (1, 3), (3, 3)]


@pytest.mark.parametrize(
    ("spec", "shape", "text"),
    [
        ("tokenrign", Shape(2), "unknown schedule 'tokenrign' (did you mean 'tokenring'?); there are allgather"),
        (
            "usp:head=2",
            Shape(4),
            "schedule 'usp' has no number called 'head' (did you mean 'heads'?); it takes heads, s",
        ),
        ("ring:inner=2", Shape(4), "schedule 'ring' has no number called 'inner'; it takes slices"),
        (
            "usp:heads=2,slices=3",
            Shape(4, 8, 4),
            "has 2 key heads in a head group, got slices=3; use slices=2 or fewer",
        ),
        ("ring:slices=0", Shape(4), "slices must be at least 1, got 0"),
        ("usp:heads=two", Shape(4), "heads must be a whole number, got 'two'"),
        ("usp:heads=3", Shape(4), "heads must divide the number of ranks, got heads=3 for 4 ranks; the nearest"),
        ("doublering:inner=5", Shape(6), "the nearest that does is 6"),
        ("tile:rows=4", Shape(6), "rows must divide the number of ranks, got rows=4 for 6 ranks"),
        ("multiring:rings=0", Shape(4), "rings must be at least 1, got 0"),
        ("grid:heads=2,queries=2", Shape(6), "2 x 2 x 1 = 4, but there are 6 ranks"),
        ("ring", Shape(2, 6, 4), "must be a multiple of the number of key and value heads, got 6 and 4"),
        ("ring", Shape(0), "needs at least 1 rank, got 0"),
    ],
)
def test_what_is_refused(spec, shape, text):
    with pytest.raises(ValueError) as error:
        make_schedule(spec, shape)
    assert text in str(error.value)


def test_equal_schedules_have_equal_digests_and_others_not():
    one, same = (grid(Shape(4), queries=2, keys=2) for _ in range(2))
    assert one == same and one.digest() == same.digest()
    assert one.digest() != grid(Shape(4), queries=4).digest()
