"""The estimate of a point without playing it, against times worked out by hand and against the simulator."""

import statistics

import pytest
from described import call, mesh, switch, two_levels

from ringattn.planner.cluster_file import read_cluster
from ringattn.planner.costs import Workload
from ringattn.planner.estimate import Estimator
from ringattn.planner.points import Point, points
from ringattn.planner.predict import predict, shape_of
from ringattn.schedule.traffic import Tensors
from ringattn.sequence.layout import make_layout
from ringattn.sequence.mask import Mask

# 512 tokens a rank, 8 heads of 64 in fp32: 1 MiB of queries, 2 MiB of keys and values.
MIB = 2**20


def seconds(cluster, workload, point, *, backward=False):
    return Estimator(cluster, workload).estimate(point, backward=backward).seconds


def test_a_ring_on_a_mesh_sends_its_keys_over_one_link():
    cluster = mesh(4, bandwidth=MIB, flops=1e20)
    assert seconds(cluster, call(4, 2048), Point(queries=4, home="along")) == pytest.approx(3 * 2, rel=1e-3)


def test_computation_hides_what_takes_less_time():
    # A rank's share of the area is 512 x 2,048 pairs of 8 heads of 64: 4 x 2^20 x 512 FLOP.
    cluster = mesh(4, bandwidth=1e12, flops=2.0**31)
    made = Estimator(cluster, call(4, 2048)).estimate(Point(queries=4, home="along"), backward=False)
    assert made.seconds == pytest.approx(1.0, rel=1e-3)
    assert made.compute == pytest.approx(1.0, rel=1e-6) and made.exposed < 1e-3


def test_a_port_is_shared_by_all_that_leaves_it():
    """All-gather sends three parcels of 2 MiB out of one port."""
    cluster = switch(4, bandwidth=MIB, flops=1e20)
    assert seconds(cluster, call(4, 2048), Point(queries=4, key_route="direct")) == pytest.approx(6, rel=1e-3)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("cluster", [mesh(8), switch(8), two_levels(2, 4)], ids=lambda c: c.name)
@pytest.mark.parametrize("causal", [pytest.param(False, marks=pytest.mark.slow), True], ids=["full", "causal"])
def test_near_the_simulator_where_the_wire_is_the_bound(cluster, backward, causal):
    workload = call(8, 4096, heads=8, key_heads=4, causal=causal)
    off = errors(cluster, workload, hosts=len(set(cluster.hosts)) if "two" in cluster.name else 1, backward=backward)
    assert statistics.median(off) <= 0.1


@pytest.mark.parametrize("backward", [False, True])
def test_near_the_simulator_where_computation_is_the_bound(backward):
    cluster = read_cluster("h100_8x")
    layout = make_layout("zigzag", 65536, 8)
    workload = Workload(layout, layout, Mask(), Tensors(1, 32, 8, 128, 2, 4), "bfloat16")
    off = errors(cluster, workload, hosts=1, backward=backward)
    assert statistics.median(off) <= 0.05 and max(off) <= 0.15


def errors(cluster, workload, *, hosts, backward):
    estimator = Estimator(cluster, workload)
    found = []
    for point in points(shape_of(workload), hosts=hosts):
        played = predict(point.spec(), workload, cluster, backward=backward).seconds
        found.append(abs(estimator.estimate(point, backward=backward).seconds / played - 1))
    return found
