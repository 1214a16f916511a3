"""Plans: degrees, memory and the reasons given."""

from dataclasses import replace

import pytest
from described import two_levels

from ringattn.planner.architecture import Architecture
from ringattn.planner.cluster_file import read_cluster
from ringattn.planner.plan import DoesNotFit, Request, plan
from ringattn.planner.reasons import reasons, travels
from ringattn.sequence.mask import Mask
from ringattn.settings.hybrid import HybridSettings, hybrid_of

SMALL = Architecture(
    vocabulary=1000,
    hidden_size=256,
    intermediate_size=512,
    layers=4,
    heads=8,
    key_value_heads=8,
    head_dim=64,
    max_positions=2**20,
)


def request(**changes):
    values = {"cluster": two_levels(2, 2, flops=1e13, memory_bandwidth=1e12), "sizes": SMALL, "length": 8192}
    return Request(**values | changes)


def test_the_best_plan_comes_first_and_adds_up():
    plans = plan(request())
    rates = [made.tokens_per_second for made in plans]
    assert rates == sorted(rates, reverse=True)
    for made in plans:
        assert made.sequence_parallel * made.data_parallel == 4
        assert made.step.total == pytest.approx(sum(seconds for _, seconds in made.step.parts()[:-1]))
        assert 0 < made.mfu < 1
        assert made.tokens == made.data_parallel * 8192


@pytest.mark.parametrize("pattern", ["linear,full,linear,sliding", "sliding,linear,linear,linear", "pure"])
def test_a_hybrids_plan_has_a_route_and_what_its_layers_take(pattern):
    sizes = hybrid_of(SMALL, HybridSettings(mixer="gated_deltanet", pattern=pattern, sliding_window=512))
    made = plan(request(sizes=sizes, batch=1, sequence_parallel=4))[0]
    assert made.route == made.routes[0] and made.route.seconds == min(route.seconds for route in made.routes)
    halo = sum(made.halo)
    assert halo > 0
    linear = sizes.pattern.count("linear")
    # Layers are computed again in the backward, and their states travel again.
    assert made.step.states == pytest.approx(linear * (2 * made.route.forward + made.route.backward + 1.5 * halo))
    assert made.step.linear_attention > 0 and (made.step.attention > 0) == (pattern != "pure")
    if pattern.startswith("linear"):
        assert made.sliding is not None and sum(made.sliding) < made.forward.seconds + made.backward.seconds
    # It takes the time of all layers that decides between layouts, and states pass fewer borders here.
    assert made.layout == "contiguous" or pattern != "pure"
    assert made.longest >= 8192 and made.memory.total < request().cluster.accelerator.memory


def test_what_a_hybrid_cannot_have_is_refused():
    sizes = hybrid_of(SMALL, HybridSettings(mixer="gla", pattern="3:1"))
    with pytest.raises(ValueError, match=r"layout 'striped' deals tokens out to the ranks one by one; choose layout"):
        plan(request(sizes=sizes, layouts=("zigzag", "striped")))
    attending = hybrid_of(SMALL, HybridSettings(mixer="gla", pattern="full"))
    assert plan(request(sizes=attending, layouts=("striped",), batch=1))[0].layout == "striped"
    with pytest.raises(ValueError, match=r"sliding ones have a window of their own, got causal, window 64: leave"):
        plan(request(sizes=sizes, mask=Mask(window=64)))
    with pytest.raises(ValueError, match=r"layers are causal, .* got full: leave causal and window out"):
        plan(request(sizes=sizes, mask=Mask(causal=False)))


def test_one_sequence_takes_all_ranks():
    assert [made.sequence_parallel for made in plan(request(batch=1))] == [4]


def test_a_batch_that_cannot_be_dealt_out_is_refused():
    with pytest.raises(ValueError, match=r"a batch of 3 sequences cannot be dealt out to 4 ranks"):
        plan(request(batch=3, sequence_parallel=2))


def test_more_ranks_than_tokens():
    with pytest.raises(ValueError, match=r"more ranks than tokens: 4 ranks for sequences of 2 tokens"):
        plan(request(length=2, batch=1))


def test_a_degree_that_does_not_divide():
    with pytest.raises(ValueError, match=r"sequence_parallel must divide the number of ranks, got 3 for 4 ranks"):
        plan(request(sequence_parallel=3))


def test_a_model_that_does_not_fit_says_by_how_much_and_what_would():
    cluster = two_levels(2, 2)
    tight = replace(cluster.accelerator, memory=100e6)
    small = type(cluster)("tight", cluster.ranks, cluster.hosts, tight, cluster.links)
    with pytest.raises(DoesNotFit) as caught:
        plan(request(cluster=small, length=2**18))
    text = str(caught.value)
    assert "does not fit under any plan: with all 4 ranks on one sequence and ZeRO 3 a rank needs" in text
    assert "more than the 0.1 GB" in text and "fits" in text and "nodes=" in text


def test_what_fits_does_fit_and_a_little_more_does_not():
    cluster = read_cluster("h100_8x")
    made = plan(request(cluster=cluster, length=2**16, batch=1))[0]
    assert made.longest > 2**16
    assert plan(request(cluster=cluster, length=made.longest, batch=1, zero=made.zero))
    with pytest.raises(DoesNotFit):
        plan(request(cluster=cluster, length=made.longest * 2, batch=1, zero=made.zero))


def test_reasons_name_the_link_and_the_times():
    made = plan(request(batch=1, mask=Mask(causal=False)))[0]
    lines = reasons(made.found, made.forward, made.backward, 4)
    assert lines[0].startswith(f"forward, {made.forward.schedule}: ")
    assert made.forward.lane in lines[0] and " ms" in lines[0]
    assert any(line.startswith("backward, the others: ") for line in lines)


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ("ring", "K, V travel over 8 ranks, hop by hop, one way"),
        ("biring", "K, V travel over 8 ranks, hop by hop, both ways"),
        ("tokenring", "queries travel over 8 ranks, hop by hop, one way, and results straight home"),
        ("ulysses", "heads are dealt out over 8 neighbours"),
        ("usp:heads=2", "heads are dealt out over 2 neighbours and K, V travel over 4 groups of ranks, hop by hop"),
        ("tile:rows=2", "K, V travel over 2 ranks, hop by hop, one way and queries travel over 4 ranks, hop by hop"),
        ("grid:heads=1,queries=8,keys=1,key_route=direct", "K, V travel over 8 ranks, straight from each owner"),
    ],
)
def test_what_travels_in_words(schedule, words):
    assert travels(schedule, 8).startswith(words)
