"""The memory estimate: counts that can be checked by hand, and against what autograd really keeps."""

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ringattn.planner.architecture import Architecture, architecture_of, has_rope_scaling, read_config
from ringattn.planner.memory import Workload, activation_bytes_per_token, estimate

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
WORK = Workload(
    length=256,
    ranks=2,
    schedule="tokenring",
    layout="zigzag",
    item_bytes=4,
    loss_chunk=32,
    gradient_checkpointing=False,
    keep_attention=True,
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
    return LlamaForCausalLM(LlamaConfig(**sizes | changes, tie_word_embeddings=False))


def test_parameters_are_those_of_the_model():
    assert SIZES.parameters() == sum(p.numel() for p in llama().parameters())


def test_the_total_is_the_sum_of_the_parts():
    made = estimate(SIZES, WORK)
    assert made.total == sum(size for _, size in made.parts()[:-1])
    assert made.weights == 4 * SIZES.parameters()
    assert made.optimizer == 8 * SIZES.parameters()
    assert made.logits_chunk == 4 * (3 * 32 * 300 + 300 * 64)


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
    assert activation_bytes_per_token(SIZES, WORK) == pytest.approx(measured, rel=0.15)


def test_checkpointing_and_bf16_and_more_ranks_need_less():
    whole = estimate(SIZES, WORK)
    checkpointed = estimate(SIZES, replace(WORK, gradient_checkpointing=True))
    nothing_kept = estimate(SIZES, replace(WORK, gradient_checkpointing=True, keep_attention=False))
    assert nothing_kept.activations < checkpointed.activations < whole.activations
    assert estimate(SIZES, replace(WORK, item_bytes=2)).activations < whole.activations
    assert estimate(SIZES, replace(WORK, ranks=4)).activations == whole.activations // 2


def test_one_rank_has_nothing_on_the_way():
    assert estimate(SIZES, replace(WORK, ranks=1)).attention_buffers == 0
    assert estimate(SIZES, WORK).attention_buffers > 0


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
