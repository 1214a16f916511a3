"""The memory estimate: counts that can be checked by hand, and against what torch's allocator counts."""

import time
from dataclasses import replace

import pytest
import torch
from hosts import SCRIPTS
from measure_memory import AGAIN, CASES, PLAIN, SMALL, Case, mark, peak_of_step, peaks_between_marks, two_layers
from ranks import run_ranks
from transformers import LlamaConfig, LlamaForCausalLM

from ringattn.planner.architecture import Architecture, architecture_of, has_rope_scaling, read_config
from ringattn.planner.attention_memory import _counted, _figures, attention_memory
from ringattn.planner.memory import (
    activation_bytes_per_token,
    estimate,
    least,
    longest,
    moments,
)
from ringattn.planner.mixer_memory import mixer_memory
from ringattn.planner.mixers import LinearSizes
from ringattn.planner.training_step import Precision, TrainingStep
from ringattn.schedule.traffic import Tensors

assert SCRIPTS  # Puts the scripts on the path.

SIZES = Architecture(
    vocabulary=300,
    hidden_size=64,
    intermediate_size=160,
    layers=3,
    heads=4,
    key_value_heads=2,
    head_dim=16,
    max_positions=256,
)
STEP = TrainingStep(
    length=256,
    ranks=2,
    schedule="tokenring",
    layout="zigzag",
    item_bytes=4,
    loss_chunk=32,
    gradient_checkpointing=False,
    keep_attention=True,
)
# What ZeRO divides is easiest to see where a token's activations are nothing beside the weights.
BILLIONS = replace(SIZES, vocabulary=1000, hidden_size=1000, intermediate_size=1000, head_dim=250)
QUICK = (
    Case(SMALL, replace(PLAIN, length=1024, loss_chunk=64)),
    Case(SMALL, replace(AGAIN, length=1024, loss_chunk=64, item_bytes=2, schedule="ulysses", keep_attention=False)),
    Case(SMALL, replace(AGAIN, length=1024, loss_chunk=64, schedule="ring", moments=(1, 2), accumulation=2)),
    Case(two_layers("gated_deltanet"), replace(AGAIN, length=1024, loss_chunk=64, item_bytes=2, state_route="scan")),
)


def llama(**changes):
    sizes = {
        "vocab_size": 300,
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
    }
    return LlamaForCausalLM(LlamaConfig(**{"tie_word_embeddings": False} | sizes | changes))


# Against the allocator.


def test_the_instrument_counts_each_byte_once():
    """Views, a release, a storage that grows, and what an operator holds inside."""

    def work():
        kept = torch.zeros(1000)
        view = kept[10:].view(2, -1)
        assert view.data_ptr() != kept.data_ptr()
        mark()
        dropped = torch.zeros(500)
        del dropped
        mark()
        kept.resize_(3000)  # The old 4000 bytes are there until they are copied.
        mark()
        torch.ones(64, 64).double()  # Both at one time.
        mark()

    spans = [(span.start, span.peak, span.end) for span in peaks_between_marks(work)]
    assert spans == [(0, 4000, 4000), (4000, 6000, 4000), (4000, 16000, 12000), (12000, 12000 + 3 * 16384, 12000)]


def check(cases):
    for case, *peaks in zip(cases, *run_ranks(cases[0].step.ranks, measure, cases, timeout=1500)):
        assert estimate(case.sizes, case.step).total == pytest.approx(max(peaks), rel=0.05), case.describe()


def measure(rank, cases):
    return [peak_of_step(case) for case in cases]


def test_the_estimate_is_within_five_percent_of_the_peak():
    check(QUICK)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_estimate_is_within_five_percent_of_the_peak_at_many_sizes(ranks):
    check([case for case in CASES if case.step.ranks == ranks])


def test_activations_are_what_autograd_keeps():
    """Every tensor saved for the backward of the base model, each storage once, weights left out."""
    model, tokens = llama(), 128
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.model(input_ids=torch.zeros(1, tokens, dtype=torch.int64), use_cache=False)
    measured = sum(size for size, _ in kept.values()) / tokens
    assert activation_bytes_per_token(SIZES, STEP) == pytest.approx(measured, rel=0.05)


# By hand.


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_parameters_are_those_of_the_model_in_its_order(tied, bias):
    sizes = replace(SIZES, tie_embeddings=tied, attention_bias=bias)
    shapes = [tuple(p.shape) for p in llama(tie_word_embeddings=tied, attention_bias=bias).parameters()]
    listed = [(weight.rows, weight.columns) for weight in sizes.weights()]
    assert listed == [shape if len(shape) == 2 else (1, *shape) for shape in shapes]
    assert sizes.parameters() == sum(rows * columns for rows, columns in listed)


def test_the_total_is_the_sum_of_the_parts_at_the_fullest_moment():
    made = estimate(SIZES, STEP)
    assert made.total == sum(size for _, size in made.parts()[:-1])
    assert made.total == max(moment.total for moment in moments(SIZES, STEP))
    assert made.weights == 4 * SIZES.parameters()
    assert made.optimizer == 8 * SIZES.parameters()


def test_the_loss_holds_the_gradients_of_states_and_head_and_three_chunks_of_logits():
    """Of the states (128 tokens) and of the head; two chunks' logits and one gradient of logits."""
    loss = moments(SIZES, STEP)[0]
    assert loss.moment == "loss"
    assert loss.loss == 4 * (128 * 64 + 300 * 64 + max(3 * 32 * 300, 2 * 32 * 300 + 300 * 64))
    assert loss.gradients == 0


def test_checkpointing_and_bf16_and_more_ranks_need_less():
    plain = activation_bytes_per_token(SIZES, STEP)
    checkpointed = activation_bytes_per_token(SIZES, replace(STEP, gradient_checkpointing=True))
    nothing_kept = activation_bytes_per_token(SIZES, replace(STEP, gradient_checkpointing=True, keep_attention=False))
    assert nothing_kept < checkpointed < plain
    assert checkpointed - nothing_kept == 3 * 4 * (64 + 4)  # out and lse of three layers.
    assert activation_bytes_per_token(SIZES, replace(STEP, item_bytes=2)) < plain
    assert estimate(SIZES, replace(STEP, ranks=4)).total < estimate(SIZES, STEP).total


def test_one_rank_has_nothing_on_the_way():
    assert estimate(SIZES, replace(STEP, ranks=1)).attention_buffers == 0
    assert estimate(SIZES, STEP).attention_buffers > 0
    assert "reduction of gradients" not in {moment.moment for moment in moments(SIZES, replace(STEP, ranks=1))}


def test_a_backward_of_another_schedule_has_its_own_buffers():
    both = [estimate(SIZES, replace(STEP, ranks=8, schedule=name)).attention_buffers for name in ("ring", "allgather")]
    mixed = estimate(SIZES, replace(STEP, ranks=8, schedule="allgather", backward="ring")).attention_buffers
    assert both[0] < mixed < both[1]


def test_no_backward_takes_less_than_the_least():
    step = replace(STEP, ranks=8, schedule="allgather")
    floor = least(SIZES, step)
    names = ("ring", "biring", "tokenring", "allgather", "ulysses", "tile")
    assert all(floor <= estimate(SIZES, replace(step, backward=name)).total for name in names)
    assert floor > least(SIZES, replace(step, schedule="ring")), "the forward's buffers are in it"


def test_a_linear_layer_keeps_what_its_mixer_makes():
    """RetNet, one head of 2 x 4, two pieces: a token's cosines and sines twice; query and key, and both decayed, four
    times 2; its value; decays and scores, 64 each; the state that enters each piece; the norm and its gate, 6 x 4."""
    linear = LinearSizes(mixer="retnet", hidden_size=64, heads=1, key_dim=2, value_dim=4)
    made = mixer_memory(linear, replace(STEP, length=128, ranks=1))
    assert made.kept == 128 * 4 * (2 * 2 + 4 * 2 + 4 + 2 * 64 + 6 * 4) + 2 * 4 * 2 * 4
    assert made.buffers == 0
    # Stretches on ranks 0, 1, 0: rank 0's first effect goes without its transition, and rank 1's with it.
    assert mixer_memory(linear, STEP).buffers == 4 * (8 + 9)


# Plans: ZeRO and master weights.


@pytest.mark.parametrize(
    ("zero", "weights", "gradients", "optimizer"),
    [(0, 2, 2, 12), (1, 2, 2, 12 / 8), (2, 2, 2 / 8, 12 / 8), (3, 2 / 8, 2 / 8, 12 / 8)],
)
def test_zero_divides_what_its_stage_says_by_all_ranks(zero, weights, gradients, optimizer):
    """arXiv 1910.02054, section 3.1 and figure 1: 2 + 2 + 12 bytes a weight with Adam, over 2 x 4 ranks."""
    step = replace(STEP, precision=Precision.MASTER, item_bytes=2, zero=zero, data_parallel=4)
    last = moments(BILLIONS, step)[-1]
    count = BILLIONS.parameters()
    assert last.moment == "optimizer"
    assert last.weights == pytest.approx(weights * count, rel=1e-6)
    assert last.gradients == pytest.approx(gradients * count, rel=1e-6)
    assert last.optimizer == pytest.approx(optimizer * count, rel=1e-6)


def test_stage_three_gathers_one_layer_at_a_time():
    step = replace(STEP, zero=3, data_parallel=4)
    layers = {moment.moment: moment.weights for moment in moments(SIZES, step)}
    share = -(-4 * SIZES.parameters() // 8)
    assert layers["backward of layer 2's feed-forward"] == share + 4 * SIZES.layer_parameters()
    assert layers["loss"] == share + 4 * 300 * 64
    assert layers["optimizer"] == share


def test_what_is_no_plan_is_refused():
    with pytest.raises(ValueError, match=r"zero is a stage of ZeRO, 0 to 3, got 4: write 0"):
        replace(STEP, zero=4)
    with pytest.raises(ValueError, match=r"got item_bytes=4 and precision=master: write item_bytes=2"):
        replace(STEP, precision=Precision.MASTER)
    with pytest.raises(ValueError, match=r"numbers above 0, got 0, 1, 1 and 1: write 1"):
        replace(STEP, ranks=0)


def test_longest_is_the_last_length_that_fits():
    memory = 40_000_000
    length = longest(SIZES, STEP, memory)
    assert length % (2 * 128) == 0 and length > 0
    assert estimate(SIZES, replace(STEP, length=length)).total <= memory
    assert estimate(SIZES, replace(STEP, length=length + 2 * 128)).total > memory
    assert longest(SIZES, STEP, 1_000_000) == 0


@pytest.mark.parametrize(("ranks", "schedule"), [(64, "tokenring"), (64, "ulysses"), (1024, "usp:heads=8")])
def test_longest_answers_at_once(ranks, schedule):
    sizes = replace(
        SIZES, hidden_size=4096, intermediate_size=14336, layers=32, heads=32, key_value_heads=8, head_dim=128
    )
    step = replace(STEP, ranks=ranks, schedule=schedule, gradient_checkpointing=True, item_bytes=2)
    started = time.process_time()
    assert longest(sizes, step, int(150e9)) > 0
    assert time.process_time() - started < 2


# Attention in large worlds.


@pytest.mark.parametrize("layout", ["zigzag", "striped"])
@pytest.mark.parametrize("ranks", [24, pytest.param(64, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "schedule",
    ["ring", "biring", "tokenring", "allgather", "ulysses", "doublering", "tile", "tile:rows=4", "usp:heads=4"],
)
def test_a_large_world_is_read_off_small_ones_as_the_verifier_counts_it(schedule, ranks, layout):
    tensors = Tensors(1, 24, 8, 16, item_bytes=2, sum_bytes=4)
    for backward in (False, True):
        assert _figures(schedule, layout, tensors, ranks, backward) == pytest.approx(
            _counted(schedule, layout, tensors, ranks, backward), rel=0.01
        )


def test_attention_of_one_rank_by_hand():
    """Two heads of 8 over one, 32 tokens: sums of 2 x 8 + 2 x 8 numbers and two deltas a token; out made up; gradients
    of the kernel; and two blocks of 32 x 32 scores."""
    tensors = Tensors(1, 2, 1, 8, item_bytes=4, sum_bytes=4)
    made = attention_memory("ring", "ring", "zigzag", tensors, ranks=1, tokens=32)
    assert made.buffers == 0
    assert made.workspace == 32 * 4 * ((16 + 16 + 2) + 16 + (16 + 16)) + 2 * 4 * 32 * 32


def test_sizes_are_read_from_a_checkpoint_folder(tmp_path):
    llama(max_position_embeddings=256).config.save_pretrained(tmp_path)
    values = read_config(tmp_path)
    assert architecture_of(values) == SIZES
    assert not has_rope_scaling(values)
    assert has_rope_scaling({"rope_scaling": {"type": "linear", "factor": 2.0}})
    with pytest.raises(ValueError, match="is not a folder"):
        read_config(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"has no config.json: save a model there"):
        read_config(tmp_path / "empty")
