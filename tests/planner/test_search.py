"""The search: never worse than a named schedule, and the choice that each kind of cluster asks for."""

import pytest
from described import call, mesh, switch, two_levels

from ringattn.planner.choose import choose, cluster_for
from ringattn.planner.predict import predict
from ringattn.planner.search import search
from ringattn.planner.ties import TIE
from ringattn.schedule import schedules
from ringattn.sequence.mask import Mask

NAMED = [name for name in schedules() if name != "grid"]


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(
    ("cluster", "key_heads"),
    [
        *((cluster, key_heads) for cluster in (mesh(4), switch(4), two_levels(2, 2)) for key_heads in (8, 2)),
        (mesh(8), 2),
        pytest.param(mesh(8), 8, marks=pytest.mark.slow),
    ],
    ids=lambda c: c if isinstance(c, int) else f"{c.name}{c.world}",
)
def test_never_worse_than_the_best_named_schedule(cluster, key_heads, backward):
    workload = call(cluster.world, 2048, key_heads=key_heads, causal=True)
    found = search(cluster, workload, directions=(backward,))[0].forward[0]
    best = min(predict(name, workload, cluster, backward=backward).seconds for name in NAMED)
    assert found.seconds <= best * (1 + TIE)


def test_candidates_are_sorted_and_say_what_bounds_them():
    found = search(switch(4), call(4, 2048))[0]
    times = [
        candidate.seconds for candidate in found.forward if candidate.seconds > (1 + TIE) * found.forward[0].seconds
    ]
    assert times and times == sorted(times)
    assert found.forward[0].lane is not None and " > " in found.forward[0].lane
    assert all(candidate.backward for candidate in found.backward)


def test_a_layout_that_leaves_ranks_idle_is_not_chosen():
    """Causal attention on contiguous shards keeps the last rank computing for twice its share."""
    cluster = mesh(4, bandwidth=1e12, flops=1e9)
    found = search(cluster, call(4, 2048, causal=True, key_heads=1, heads=1), ("contiguous", "zigzag"))
    assert [layout.layout for layout in found] == ["zigzag", "contiguous"]


def test_tokenring_where_dk_and_dv_would_be_the_load():
    """Multi-head, backward, over links between pairs, one head group: dk and dv need not travel."""
    workload = call(4, 2048, heads=1, key_heads=1)
    tokenring, ring = (predict(name, workload, mesh(4), backward=True).seconds for name in ("tokenring", "ring"))
    assert tokenring < 0.6 * ring
    assert search(mesh(4), workload, directions=(True,))[0].forward[0].seconds <= tokenring


def test_at_a_switch_a_ring_that_ties_with_both_ways_is_taken():
    """The port carries the same bytes; one connection has it to itself, or two share it."""
    cluster, workload = switch(4), call(4, 2048, heads=8, key_heads=2)
    ring, both = (predict(name, workload, cluster, backward=False) for name in ("ring", "biring"))
    assert (max(ring.connections.values()), max(both.connections.values())) == (1, 2)
    assert ring.seconds == pytest.approx(both.seconds, rel=TIE)
    assert search(cluster, workload, directions=(False,))[0].forward[0].schedule == "ring"


def test_a_search_is_the_same_twice():
    assert search(two_levels(2, 2), call(4, 2048)) == search(two_levels(2, 2), call(4, 2048))


def test_auto_chooses_what_the_search_finds_first():
    workload = call(4, 2048, causal=True)
    cluster = switch(4)
    found = search(cluster, workload, directions=(True,))[0].forward[0].schedule
    assert choose(cluster, "zigzag", (2048, 2048), Mask(), workload.tensors, "float32", backward=True) == found


def test_auto_passes_over_documents():
    workload = call(4, 2048)
    packed = Mask(documents=(0, 100, 2048))
    made = choose(switch(4), "zigzag", (2048, 2048), packed, workload.tensors, "float32", backward=False)
    assert made == choose(switch(4), "zigzag", (2048, 2048), Mask(), workload.tensors, "float32", backward=False)


@pytest.mark.parametrize(
    ("device", "world", "message"),
    [
        ("Some GPU", 8, "schedule=auto knows no cluster of Some GPU"),
        ("cpu", 64, "needs a cluster of 64 ranks, and 'this_machine' describes 2"),
    ],
)
def test_auto_says_what_it_needs(device, world, message):
    with pytest.raises(ValueError, match=message):
        cluster_for(None, device, world)


def test_auto_knows_devices_by_name():
    assert cluster_for(None, "NVIDIA H100 80GB HBM3", 16).name == "h100_8x"
    assert cluster_for(None, "NVIDIA A100-SXM4-80GB", 8).name == "a100_8x"
