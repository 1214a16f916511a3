"""The time of a training step, part by part, against numbers worked out by hand."""

from dataclasses import fields

import pytest
from described import accelerator, mesh, switch

from ringattn.planner.architecture import Architecture, HybridArchitecture
from ringattn.planner.mixers import LinearSizes
from ringattn.planner.step import MATMUL_SHARE, Work, matmul_rate, model_flops, step_time

SIZES = Architecture(
    vocabulary=100,
    hidden_size=8,
    intermediate_size=16,
    layers=2,
    heads=2,
    key_value_heads=1,
    head_dim=4,
    max_positions=64,
)
# Of a layer: q and o 2 x 8 x 8, k and v 2 x 8 x 4, feed-forward 3 x 8 x 16.
MATRICES = 2 * (128 + 64 + 384)
PARAMETERS = MATRICES + 2 * 2 * 8 + 2 * 800 + 8


def work(**changes):
    values = {
        "tokens": 10,
        "area": 1000.0,
        "sequences": 1,
        "sequence_parallel": 4,
        "dtype": "float32",
        "item_bytes": 4,
        "recompute": False,
        "recompute_attention": False,
        "zero": 0,
        "layer_bytes": {"full": 0.0, "linear": 0.0, "sliding": 0.0},
    }
    return Work(**values | changes)


def parts(cluster, **changes):
    return step_time(SIZES, cluster, work(**changes), attention_forward=2.0, attention_backward=5.0)


def test_attention_is_that_of_all_layers():
    assert parts(mesh(4)).attention == 2 * (2 + 5)
    assert parts(mesh(4), recompute=True).attention == 2 * (2 + 5)
    assert parts(mesh(4), recompute=True, recompute_attention=True).attention == 2 * (2 + 2 + 5)


def test_matrix_products_are_six_flops_a_weight_and_token_and_two_more_to_compute_again():
    rate = 1e12 * MATMUL_SHARE
    assert matmul_rate(accelerator(1e12), "float32") == rate
    assert parts(mesh(4)).matrix_products == pytest.approx(10 * 6 * (MATRICES + 800) / rate)
    assert parts(mesh(4), recompute=True).matrix_products == pytest.approx(10 * (8 * MATRICES + 6 * 800) / rate)


def test_gradients_go_round_a_ring():
    assert SIZES.parameters() == PARAMETERS
    sent = 2 * 3 / 4 * 4 * PARAMETERS
    assert parts(switch(4, bandwidth=1e3)).gradients == pytest.approx(sent / 1e3)
    # Weights of 4 bytes gathered twice, gradients of 4 bytes scattered once.
    assert parts(switch(4, bandwidth=1e3), zero=3).gradients == pytest.approx(12 * PARAMETERS * 3 / 4 / 1e3)
    assert parts(mesh(1)).gradients == 0.0


def test_zero_divides_the_optimizers_work():
    whole = parts(mesh(4, memory_bandwidth=1e3)).optimizer
    assert whole == pytest.approx(7 * 4 * PARAMETERS / 1e3)
    assert parts(mesh(4, memory_bandwidth=1e3), zero=1).optimizer == pytest.approx(whole / 4)


def test_the_models_own_flops_count_nothing_twice():
    """PaLM's count: 6 a weight (embeddings are free) and token, 12 a visible pair, head and head dimension."""
    expected = 6 * (PARAMETERS - 800) * 40 + 12 * 1000 * 2 * 4 * 2
    assert model_flops(SIZES, work()) == expected
    assert model_flops(SIZES, work(recompute=True)) == expected


def test_a_hybrid_step_by_kinds_of_layers():
    """One layer of each kind. GLA with one head of 4 x 4: maps of 5 x 4 x 8 and of 16 between the two of its decay."""
    linear = LinearSizes(mixer="gla", hidden_size=8, heads=1, key_dim=4, value_dim=4)
    values = {item.name: getattr(SIZES, item.name) for item in fields(Architecture)} | {"layers": 3}
    sizes = HybridArchitecture(**values, linear=linear, pattern=("linear", "sliding", "full"), sliding_window=4)
    made = step_time(
        sizes,
        mesh(4, memory_bandwidth=1e3),
        work(recompute=True, layer_bytes={"full": 1.0, "linear": 20.0, "sliding": 300.0}),
        attention_forward=2.0,
        attention_backward=5.0,
        sliding=(0.5, 0.25),
        passing=(0.125, 0.25),
    )
    assert made.attention == 2 + 5 + 0.5 + 0.25
    assert made.states == 2 * 0.125 + 0.25
    maps = 5 * 4 * 8 + 16 * 8 + 4 * 16 + 3 * 8 * 16 + 2 * (192 + 384)
    assert made.matrix_products == pytest.approx(10 * (8 * maps + 6 * 800) / (1e12 * MATMUL_SHARE))
    assert made.element_wise == pytest.approx((2 * 2 + 3) * 321 * 10 / 1e3)
    # The half of a piece of 64 keys of 4 channels, all its values, and a state of 4 x 4 read, written and passed on.
    forward = 2 * (63 / 2 * 4 + 64 * 4 + 3 * 16)
    assert made.linear_attention == pytest.approx(10 * (2 + 2) * forward / (1e12 * MATMUL_SHARE))
    assert [name for name, _ in made.parts()][-3:] == ["linear attention", "states", "total"]
    # Of 40 tokens under a window of 4: 1 + 2 + 3 + 37 x 4 pairs. And a state of 16 numbers, written and read.
    flops = 6 * (sizes.parameters() - 800) * 40 + 12 * (1000 + 154) * 8 + 3 * 40 * 4 * 16
    assert model_flops(sizes, work()) == flops


def test_a_dtype_without_a_rate_is_refused():
    with pytest.raises(ValueError, match=r"has no rate of matrix products for float16: it has bfloat16, float32"):
        parts(mesh(4), dtype="float16")
