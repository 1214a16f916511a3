"""The simulator against times worked out by hand: every schedule here is a few moves whose times are round numbers.

A chunk is 50 tokens of one head of one element, one chunk a rank, a byte an element. So the parcel of a chunk's keys
and values has 100 bytes, one of its queries 50, a partial (out and lse) 100, and a full block takes 4 x 50 x 50 =
10,000 FLOP forward. Links carry 10 bytes/s, and the accelerator computes 1,000 FLOP/s: 10 s for each of these.
"""

import pytest

from ringattn.planner.cluster import Accelerator, Cluster, Kernel, Link, Overhead, Rate
from ringattn.planner.costs import Workload, costs_of
from ringattn.planner.simulate import simulate
from ringattn.schedule import make_schedule
from ringattn.schedule.prune import prune
from ringattn.schedule.traffic import Tensors
from ringattn.schedule.value import Kind, Move, Schedule, Shape, Side, Step, Task
from ringattn.sequence.blocks import visible_blocks
from ringattn.sequence.layout import Layout, make_layout
from ringattn.sequence.mask import Mask

TOKENS = 50
FREE = float("inf")
FULL = Mask(causal=False)


def parcel(source, target, *, chunk=None, side=Side.KEY, due=0):
    return Move(source, target, Kind.PARCEL, side, (source if chunk is None else chunk,), 0, due)


def partial(source, target, *, due):
    return Move(source, target, Kind.PARTIAL, Side.QUERY, (target,), 0, due)


def task(rank, *, queries=None, keys=None):
    return Task(rank, (rank if queries is None else queries,), (rank if keys is None else keys,), 0)


def accelerator(*, launch=0.0, memory_bandwidth=FREE):
    kernel = Kernel(forward=(Rate(TOKENS, 1000.0),), backward=(Rate(TOKENS, 1000.0),), launch=launch)
    return Accelerator(
        name="slow", memory=1e9, memory_bandwidth=memory_bandwidth, matmul={}, attention={"int8": kernel}
    )


def cluster(*links, world=2, overhead=None, chip=None):
    ranks = tuple(f"gpu{rank}" for rank in range(world))
    return Cluster("test", ranks, ranks, chip or accelerator(), links, overhead or Overhead())


def play(steps, made, *, backward=False, record=True):
    """Simulate steps, given as (tasks, moves), of a schedule on all ranks of a cluster."""
    world = made.world
    schedule = Schedule("test", world, 1, ((0, 1),), tuple(Step(tuple(tasks), tuple(moves)) for tasks, moves in steps))
    chunks = tuple(range(rank * TOKENS, (rank + 1) * TOKENS) for rank in range(world))
    layout = Layout("test", world * TOKENS, world, chunks)
    workload = Workload(layout, layout, FULL, Tensors(1, 1, 1, 1, item_bytes=1, sum_bytes=1), "int8")
    return simulate(costs_of(schedule, workload, made.accelerator, backward=backward), made, record=record)


def arrivals(simulation):
    """(source, target) -> when the message was there."""
    return {
        (event.peer, line.rank): event.stop
        for line in simulation.timelines
        for event in line.events
        if event.kind == "receive"
    }


DUPLEX = Link("gpu0", "gpu1", 10.0, 10.0)


# One message, and messages that share.


def test_a_message_takes_latency_and_bytes_over_bandwidth():
    made = cluster(Link("gpu0", "gpu1", 10.0, 10.0, latency=1.5))
    assert play([((), [parcel(0, 1)])], made).seconds == pytest.approx(1.5 + 100 / 10)


def test_a_message_is_as_fast_as_the_narrowest_link_on_its_way():
    made = cluster(Link("gpu0", "switch", 10.0, 10.0, latency=1.0), Link("switch", "gpu1", 4.0, 4.0, latency=2.0))
    assert play([((), [parcel(0, 1)])], made).seconds == pytest.approx(3 + 100 / 4)


def test_two_messages_over_one_link_share_it():
    made = cluster(Link("gpu0", "switch", 10.0, 10.0), *fast("gpu1", "gpu2"), world=3)
    times = arrivals(play([((), [parcel(0, 1), parcel(0, 2)])], made))
    assert times == pytest.approx({(0, 1): 20.0, (0, 2): 20.0})


def fast(*places):
    """Links to a switch that never hold anything up."""
    return [Link(place, "switch", 1e9, 1e9) for place in places]


def test_what_one_message_leaves_the_other_takes_up():
    # 50 and 100 bytes at 5 bytes/s each; the shorter one is there after 10 s, the rest of the other takes 5 s more.
    made = cluster(Link("gpu0", "switch", 10.0, 10.0), *fast("gpu1", "gpu2"), world=3)
    times = arrivals(play([((), [parcel(0, 1, side=Side.QUERY), parcel(0, 2)])], made))
    assert times == pytest.approx({(0, 1): 10.0, (0, 2): 15.0})


def test_messages_between_the_same_two_ranks_go_one_behind_the_other():
    # 100 bytes, then 50 that are due a step later and do not slow them down: there after 10 and 15 s.
    simulation = play([((), [parcel(0, 1), parcel(0, 1, side=Side.QUERY, due=1)]), ((), [])], cluster(DUPLEX))
    received = [event for event in simulation.timelines[1].events if event.kind == "receive"]
    assert [(event.bytes, event.start, event.stop) for event in received] == [(100, 0.0, 10.0), (50, 10.0, 15.0)]


def test_shares_are_max_min_fair():
    # Into rank 2 come three messages over 9 bytes/s: 3 for each. Rank 0 sends one of them, and has 10 bytes/s out:
    # its other message gets the 7 that are left, not 5.
    made = cluster(
        Link("gpu0", "switch", 10.0, 10.0),
        Link("gpu2", "switch", 9.0, 9.0),
        *fast("gpu1", "gpu3", "gpu4"),
        world=5,
    )
    times = arrivals(play([((), [parcel(0, 1), parcel(0, 2), parcel(3, 2), parcel(4, 2)])], made))
    assert times == pytest.approx({(0, 1): 100 / 7, (0, 2): 100 / 3, (3, 2): 100 / 3, (4, 2): 100 / 3})


def test_both_directions_of_a_link_are_independent():
    assert play([((), [parcel(0, 1), parcel(1, 0)])], cluster(DUPLEX)).seconds == pytest.approx(10)


def test_both_directions_of_a_bus_share_it():
    bus = Link("gpu0", "gpu1", 10.0, 10.0, half_duplex=True)
    assert play([((), [parcel(0, 1), parcel(1, 0)])], cluster(bus)).seconds == pytest.approx(20)


def test_a_message_without_bytes_is_none():
    """The forward has no results of keys."""
    move = Move(0, 1, Kind.PARTIAL, Side.KEY, (1,), 0, 0)
    assert play([((), [move])], cluster(DUPLEX)).seconds == 0
    assert play([((), [move])], cluster(DUPLEX), backward=True).seconds == pytest.approx(10)


# Steps of a rank.


def test_computation_hides_a_transfer():
    alone = play([((task(0), task(1)), ())], cluster(DUPLEX))
    hidden = play([((task(0), task(1)), [parcel(0, 1)])], cluster(DUPLEX))
    assert alone.seconds == hidden.seconds == pytest.approx(10)
    assert hidden.waited == (0.0, 0.0)


def test_the_backward_computes_ten_where_the_forward_computes_four():
    assert play([((task(0),), ())], cluster(DUPLEX), backward=True).seconds == pytest.approx(25)


def test_a_rank_waits_for_what_is_due_and_then_goes_on():
    made = play([((), [parcel(0, 1)]), ([task(1, keys=0)], ())], cluster(DUPLEX))
    assert made.seconds == pytest.approx(20)
    assert made.computed == pytest.approx((0, 10))
    assert made.waited == pytest.approx((10, 10))
    assert [event.kind for event in made.timelines[1].events] == ["receive", "wait", "compute"]


def test_a_message_moves_once_both_ends_have_posted_it():
    # Rank 1 comes to step 1 only after its task of step 0.
    made = play([([task(1)], ()), ((), [parcel(0, 1, due=1)])], cluster(DUPLEX))
    assert made.seconds == pytest.approx(20)
    assert made.waited == pytest.approx((20, 10))


def test_a_transfer_over_two_steps_is_waited_for_at_the_end_of_the_second():
    steps = [([task(1)], [parcel(0, 1, due=1)]), ([task(1)], ()), ([task(1, keys=0)], ())]
    slow = cluster(Link("gpu0", "gpu1", 5.0, 5.0))
    assert play(steps, slow).seconds == pytest.approx(30)


def test_a_result_leaves_once_it_is_made_and_does_not_hold_up_the_next_step():
    # Rank 0 makes a result for rank 1 in step 0 and sends it while step 1 runs on both.
    steps = [
        ([task(0, queries=1)], [partial(0, 1, due=1)]),
        ([task(0), task(1)], ()),
    ]
    made = play(steps, cluster(DUPLEX))
    # Rank 1 posts it at once, and computes meanwhile; the result is under way from 10 s to 20 s.
    assert arrivals(made) == pytest.approx({(0, 1): 20.0})
    assert made.seconds == pytest.approx(20)
    assert made.waited == pytest.approx((0, 10))


def test_a_result_that_comes_is_merged():
    # 3 passes over 100 bytes at 30 bytes/s: 10 s, for the task's own merge and for what comes.
    chip = accelerator(memory_bandwidth=30.0)
    steps = [([task(0, queries=1)], [partial(0, 1, due=0)])]
    made = play(steps, cluster(DUPLEX, chip=chip))
    assert made.computed == pytest.approx((20, 10))
    assert made.seconds == pytest.approx(10 + 10 + 10 + 10)


def test_a_parcel_is_packed_by_its_owner_alone():
    # 2 passes over 100 bytes at 20 bytes/s: 10 s before it leaves; rank 1 passes on the buffer that it got.
    chip = accelerator(memory_bandwidth=20.0)
    made = cluster(DUPLEX, Link("gpu1", "gpu2", 10.0, 10.0), world=3, chip=chip)
    steps = [((), [parcel(0, 1)]), ((), [parcel(1, 2, chunk=0, due=1)])]
    assert arrivals(play(steps, made)) == pytest.approx({(0, 1): 20.0, (1, 2): 30.0})


def test_launches_and_the_runtime_cost_what_the_cluster_says():
    made = cluster(
        Link("gpu0", "gpu1", 10.0, 10.0, latency=0.25),
        overhead=Overhead(step=1.0, message=0.5, rendezvous=0.125),
        chip=accelerator(launch=2.0),
    )
    steps = [([task(0), task(1)], [parcel(0, 1)]), ([task(1, keys=0)], ())]
    simulation = play(steps, made)
    posted = 1.0 + 0.5
    assert arrivals(simulation)[0, 1] == pytest.approx(posted + 0.25 + 0.125 + 10)
    # Step 0 ends with the task, 12 s after the posts; step 1 has no message.
    assert simulation.seconds == pytest.approx(posted + 12 + 1.0 + 12)
    assert simulation.computed == pytest.approx((12, 24))


def test_the_timeline_tells_what_was_done():
    steps = [([task(0), task(1)], [parcel(0, 1)]), ([task(1, keys=0)], ())]
    made = play(steps, cluster(DUPLEX))
    assert made.timelines[1].seconds("compute") == pytest.approx(20)
    sent = next(event for event in made.timelines[0].events if event.kind == "send")
    assert (sent.start, sent.stop, sent.peer, sent.bytes, sent.step, sent.direction) == (
        0.0,
        pytest.approx(10),
        1,
        100,
        0,
        "forward",
    )
    assert play(steps, cluster(DUPLEX), record=False).timelines == ()


# The whole.


def test_loads_and_the_bound_of_the_wires():
    made = cluster(Link("gpu0", "gpu1", 10.0, 4.0))
    simulation = play([((), [parcel(0, 1), parcel(1, 0)])], made)
    assert {made.lanes[lane].name: load for lane, load in simulation.loads.items()} == {
        "gpu0 > gpu1": 100,
        "gpu1 > gpu0": 100,
    }
    seconds, lane = simulation.wire_bound(made)
    assert (seconds, made.lanes[lane].name) == (25.0, "gpu1 > gpu0")
    assert simulation.seconds == pytest.approx(25)
    assert play([([task(0)], ())], made).wire_bound(made) == (0.0, None)


def named(spec, *, world=4, mask=FULL, layout="contiguous", backward=False, made=None):
    """A named schedule with 100 tokens a rank, so two chunks of the size above."""
    cut = make_layout(layout, world * 2 * TOKENS, world)
    workload = Workload(cut, cut, mask, Tensors(1, 2, 2, 1, item_bytes=1, sum_bytes=1), "int8")
    schedule = make_schedule(spec, Shape(world, 2, 2))
    pruned = prune(schedule, visible_blocks(mask, *workload.refined(schedule)))
    made = made or cluster(*[Link(f"gpu{rank}", "switch", 10.0, 10.0) for rank in range(world)], world=world)
    return simulate(costs_of(pruned, workload, made.accelerator, backward=backward), made, record=True), made


def test_a_ring_in_a_fast_network_is_bound_by_computation():
    # Each of 4 steps: 2 heads x 4 x 100 x 100 FLOP at 1,000 FLOP/s.
    made = cluster(*fast(*[f"gpu{rank}" for rank in range(4)]), world=4)
    assert named("ring", made=made)[0].seconds == pytest.approx(4 * 80, rel=1e-5)


def test_a_ring_in_a_slow_network_is_bound_by_its_wire():
    # 3 hops of 2 heads x 100 tokens x (K, V) = 400 bytes at 1 byte/s, and the last block behind them.
    links = [Link(f"gpu{rank}", "switch", 1.0, 1.0) for rank in range(4)]
    made, made_of = named("ring", made=cluster(*links, world=4))
    assert made.wire_bound(made_of)[0] == pytest.approx(3 * 400)
    assert made.seconds == pytest.approx(3 * 400 + 80)


def test_a_causal_ring_of_contiguous_shares_takes_as_long_as_its_last_rank():
    made = cluster(*fast(*[f"gpu{rank}" for rank in range(4)]), world=4)
    simulation, _ = named("ring", mask=Mask(), made=made)
    # Three blocks and a triangle of 100 x 101 / 2 of them; rank 0 has the triangle alone.
    triangle = 2 * 4 * 100 * 101 / 2 / 1000
    assert simulation.computed[3] == pytest.approx(3 * 80 + triangle)
    assert simulation.computed[0] == pytest.approx(triangle)
    assert simulation.seconds == pytest.approx(3 * 80 + triangle, rel=1e-5)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("spec", ["ring", "biring", "tokenring", "tile", "ulysses", "allgather", "doublering"])
def test_no_schedule_beats_its_bounds_and_each_plays_the_same_twice(spec, backward):
    made, links = named(spec, mask=Mask(), layout="zigzag", backward=backward)
    again, _ = named(spec, mask=Mask(), layout="zigzag", backward=backward)
    assert made == again
    assert made.seconds >= max(max(made.computed), made.wire_bound(links)[0]) * (1 - 1e-9)


def test_more_ranks_than_the_cluster_has():
    small = cluster(DUPLEX)
    with pytest.raises(ValueError, match="schedule 'ring' is for 4 ranks, but cluster 'test' has 2"):
        named("ring", made=small)


def test_a_rank_that_no_link_reaches():
    with pytest.raises(ValueError, match=r"no links lead from gpu0 \(rank 0\) to gpu2 \(rank 2\)"):
        play([((), [parcel(0, 2)])], cluster(DUPLEX, world=3))
