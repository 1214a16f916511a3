"""Routes of states on a described cluster, against times worked out by hand.

A state has 100 bytes (one head, 5 x 5 numbers of 4 bytes) and every link carries 10 bytes/s: a hop takes 10 s.
"""

import pytest

from ringattn.planner.cluster import Accelerator, Cluster, Link, Overhead
from ringattn.planner.states import choose_route, halo_seconds, predict_states, rank_routes
from ringattn.schedule.states import StateSizes, Transition, make_state_route, verify_state_route
from ringattn.sequence.layout import make_layout

SIZES = StateSizes(batch=1, heads=1, key_dim=5, value_dim=5, transition=Transition.SCALAR)
CONTIGUOUS, ZIGZAG = (make_layout(name, 64, 4) for name in ("contiguous", "zigzag"))


def mesh(*, latency=0.0, memory_bandwidth=float("inf"), matmul=None, overhead=None):
    """Four ranks, each pair joined by a link of 10 bytes/s each way."""
    chip = Accelerator(name="slow", memory=1e9, memory_bandwidth=memory_bandwidth, matmul=matmul or {}, attention={})
    ranks = tuple(f"gpu{rank}" for rank in range(4))
    links = tuple(Link(a, b, 10.0, 10.0, latency) for i, a in enumerate(ranks) for b in ranks[i + 1 :])
    return Cluster("mesh", ranks, ranks, chip, links, overhead or Overhead())


def seconds(route, layout=CONTIGUOUS, cluster=None, sizes=SIZES, *, backward=False):
    return predict_states(route, layout, sizes, cluster or mesh(), backward=backward).seconds


def test_a_ring_takes_a_hop_after_another():
    # Three borders with contiguous; six with zigzag, whose seven stretches lie on ranks 0 1 2 3 2 1 0.
    assert seconds("ring") == pytest.approx(30)
    assert seconds("ring", ZIGZAG) == pytest.approx(60)
    assert seconds("ring", backward=True) == pytest.approx(30)
    assert seconds("ring", cluster=mesh(latency=0.5)) == pytest.approx(31.5)


def test_slices_of_a_pipeline_travel_at_the_same_time():
    # Five slices of 20 bytes, 2 s each: the last sets out after 4 of them, and takes 3 hops.
    assert seconds("pipeline:slices=5") == pytest.approx(14)


def test_all_effects_travel_at_once():
    # Ranks 1 and 2 send a transition of 4 bytes as well.
    assert seconds("allgather") == pytest.approx(10.4)
    # The link from rank 1 to rank 0 carries both effects of rank 1, 104 bytes each.
    assert seconds("allgather", ZIGZAG) == pytest.approx(20.8)


def test_a_scan_takes_one_exchange_for_each_doubling():
    # First to the neighbours, 104 bytes from rank 1, then over two ranks, where two states travel.
    assert seconds("scan") == pytest.approx(10.4 + 10)


def test_a_task_takes_the_time_of_its_product_and_of_memory():
    dense = StateSizes(batch=1, heads=1, key_dim=5, value_dim=5, transition=Transition.DENSE)
    # Three of the four ranks take the state on, one after another: 2 x 5 x 25 FLOP; 300 bytes read and written, and 200
    # to pack what leaves.
    cluster = mesh(memory_bandwidth=100.0, matmul={"float32": 50.0})
    assert seconds("ring", sizes=dense, cluster=cluster) == pytest.approx(30 + 3 * (250 / 50 + 3 + 2))


def test_a_halo_goes_from_neighbour_to_neighbour_at_once():
    # Three tokens of 5 bytes before each chunk; every border has a direction of a link of its own.
    assert halo_seconds(CONTIGUOUS, 4, 5, mesh()) == pytest.approx((1.5, 1.5))
    assert halo_seconds(ZIGZAG, 4, 5, mesh()) == pytest.approx((1.5, 1.5))
    assert halo_seconds(CONTIGUOUS, 1, 5, mesh()) == halo_seconds(make_layout("zigzag", 64, 1), 4, 5, mesh()) == (0, 0)
    # And 15 bytes read and written to pack them.
    assert halo_seconds(CONTIGUOUS, 4, 5, mesh(memory_bandwidth=30.0))[0] == pytest.approx(2.5)


def test_the_simulator_sends_what_the_verifier_counts():
    for name in ("allgather", "ring", "pipeline:slices=3"):
        sent = verify_state_route(make_state_route(name, 4, (0, 1, 2, 3, 2, 1, 0)), SIZES).sent
        made = predict_states(name, ZIGZAG, SIZES, mesh(), backward=False, record=True)
        assert tuple(sum(e.bytes for e in t.events if e.kind == "send") for t in made.timelines) == sent


def test_routes_are_ranked_by_their_time_on_the_cluster():
    found = rank_routes(CONTIGUOUS, SIZES, mesh())
    assert [(candidate.route, candidate.steps) for candidate in found] == [
        ("allgather", 1), ("pipeline:slices=4", 6), ("scan", 2), ("pipeline:slices=2", 4), ("ring", 3),
    ]  # fmt: skip
    assert found[0].sent == 300 and found[-1].sent == 100
    # Two hosts behind one slow link: four effects queue on it, and of the ring's states one crosses it.
    ranks = tuple(f"gpu{rank}" for rank in range(4))
    inside = [Link(rank, f"host{number // 2}", 1e9, 1e9) for number, rank in enumerate(ranks)]
    hosts = Cluster("hosts", ranks, ranks, mesh().accelerator, (*inside, Link("host0", "host1", 10.0, 10.0)))
    assert seconds("allgather", cluster=hosts) == pytest.approx(40.8)
    assert rank_routes(CONTIGUOUS, SIZES, hosts)[0].route == choose_route(CONTIGUOUS, SIZES, hosts) == "ring"
