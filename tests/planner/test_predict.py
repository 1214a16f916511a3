"""From the name of a schedule to a simulation."""

import pytest

from ringattn.planner.cluster import Accelerator, Cluster, Kernel, Link, Rate
from ringattn.planner.costs import Workload, costs_of
from ringattn.planner.predict import as_run, predict, shape_of
from ringattn.planner.simulate import simulate
from ringattn.schedule import make_schedule
from ringattn.schedule.traffic import Tensors
from ringattn.schedule.value import Shape
from ringattn.sequence.layout import make_layout
from ringattn.sequence.mask import Mask

CAUSAL = Mask()
RATE = 1e9


def workload(mask=CAUSAL, ranks=2, length=64):
    layout = make_layout("contiguous", length, ranks)
    return Workload(layout, layout, mask, Tensors(1, 2, 1, 8, 4, 4), "float32")


def pair(ranks=2):
    kernel = Kernel(forward=(Rate(1, RATE),), backward=(Rate(1, RATE),))
    # Memory costs nothing, so that what is left can be counted on paper.
    core = Accelerator(name="core", memory=1e9, memory_bandwidth=1e30, matmul={}, attention={"float32": kernel})
    places = tuple(f"rank{rank}" for rank in range(ranks))
    links = tuple(Link(place, "switch", 1e30, 1e30) for place in places)
    return Cluster("pair", places, ("here",) * ranks, core, links)


def test_computing_takes_the_scores_over_the_rate():
    """Under a full mask each of two ranks computes 32 x 64 scores of 2 heads of 8: 4 FLOP forward, 10 backward."""
    flops = 32 * 64 * 2 * 8
    found = [predict("ring", workload(Mask(causal=False)), pair(), backward=backward) for backward in (False, True)]
    assert [simulation.seconds for simulation in found] == pytest.approx([4 * flops / RATE, 10 * flops / RATE])
    assert found[0].timelines == ()


def test_a_name_and_the_value_it_stands_for_are_predicted_alike():
    asked, work = make_schedule("tokenring", Shape(2, 2, 1, 2)), workload()
    assert shape_of(work) == (2, 2, 1, 2)
    both = [predict(schedule, work, pair(), backward=True, record=True) for schedule in ("tokenring", asked)]
    assert both[0] == both[1] and both[0].timelines


def test_what_the_mask_leaves_out_is_neither_sent_nor_computed():
    """Two documents, one on each rank: nothing travels."""
    work = workload(Mask(documents=(0, 32, 64)))
    assert not any(step.moves for step in as_run("ring", work).steps)
    found = predict("ring", work, pair(), backward=False)
    assert found.loads == {}
    whole = simulate(costs_of(make_schedule("ring", shape_of(work)), work, pair().accelerator, backward=False), pair())
    assert whole.loads


@pytest.mark.parametrize(
    ("schedule", "ranks", "message"),
    [
        ("rng", 2, "unknown schedule 'rng'"),
        ("usp:heads=3", 2, "heads must divide the number of ranks"),
        ("ring", 4, "is for 4 ranks, but cluster 'pair' has 2"),
    ],
)
def test_what_cannot_be_predicted_is_said(schedule, ranks, message):
    with pytest.raises(ValueError, match=message):
        predict(schedule, workload(ranks=ranks), pair(), backward=False)
