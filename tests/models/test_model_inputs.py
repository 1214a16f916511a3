"""What a parallelized model is called with: full inputs, shards, and what is refused, in one message on every rank."""

from __future__ import annotations

import copy
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import refusals, run_ranks
from tiny_models import FAMILIES, VOCABULARY, make_config, make_model, make_tokens, plain_step
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PretrainedConfig, PreTrainedModel

import ringattn

LENGTH = 23


def parallelized(**changes: Any) -> Any:
    return ringattn.parallelize(make_model("llama", **changes), ringattn.SequenceParallel())


# One rank.


@pytest.mark.parametrize("family", FAMILIES)
def test_one_rank_is_the_plain_model_with_transformers_own_attention(family: str) -> None:
    plain = make_model(family, attention="eager").float()
    model = ringattn.parallelize(copy.deepcopy(plain), ringattn.SequenceParallel())
    tokens = make_tokens(2, 40)
    expected, found = plain(input_ids=tokens, labels=tokens, use_cache=False), model(input_ids=tokens, labels=tokens)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.loss, expected.loss)


def test_positions_that_restart_make_documents_as_in_transformers() -> None:
    plain = make_model("llama", attention="sdpa")
    model = ringattn.parallelize(copy.deepcopy(plain), ringattn.SequenceParallel())
    tokens, positions = make_tokens(1, 9), torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4, 0]])
    expected = plain(input_ids=tokens, position_ids=positions, use_cache=False).logits
    torch.testing.assert_close(model(input_ids=tokens, position_ids=positions).logits, expected)
    named = {"cu_seq_lens_q": torch.tensor([0, 3, 8, 9]), "cu_seq_lens_k": torch.tensor([0, 3, 8, 9])}
    torch.testing.assert_close(model(input_ids=tokens, **named, max_length_q=5).logits, expected)


def test_a_mask_of_ones_is_accepted() -> None:
    model, tokens = parallelized(), make_tokens(1, LENGTH)
    found = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
    torch.testing.assert_close(found, model(tokens).logits)


def test_a_copy_of_a_model_works_too() -> None:
    model, tokens = parallelized(), make_tokens(1, LENGTH)
    torch.testing.assert_close(copy.deepcopy(model)(tokens).logits, model(tokens).logits)


def test_saved_weights_load_as_a_plain_model(tmp_path: Path) -> None:
    model = ringattn.parallelize(LlamaForCausalLM(make_config("llama")), ringattn.SequenceParallel())
    model.save_pretrained(tmp_path)
    plain, tokens = AutoModelForCausalLM.from_pretrained(tmp_path), make_tokens(1, LENGTH)
    assert plain.config._attn_implementation != "ringattn"
    torch.testing.assert_close(model(tokens).logits, plain(tokens, use_cache=False).logits, rtol=1e-4, atol=1e-4)


def test_under_autocast_attention_is_narrow_as_torchs_own() -> None:
    plain = make_model("llama", attention="sdpa").float()
    model, tokens = ringattn.parallelize(copy.deepcopy(plain), ringattn.SequenceParallel()), make_tokens(1, LENGTH)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = plain(tokens, use_cache=False).logits.float()
        found = model(tokens).logits.float()
    assert float((found - expected).norm() / expected.norm()) < 0.05


# Several ranks.


def local_calls(rank: int, models: list[Any], tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States of the decoder called with shards, and the loss of a whole model called in three ways."""
    sp = ringattn.SequenceParallel(schedule="ring")
    model = ringattn.parallelize(models[rank], sp)
    length = tokens.shape[1]
    local = sp.shard(tokens, 1)
    states = model.model(
        input_ids=local, position_ids=sp.positions(length)[None], length=length, use_cache=False
    ).last_hidden_state
    full = model(input_ids=tokens, labels=tokens).loss
    targets = torch.cat((tokens[:, 1:], torch.full((tokens.shape[0], 1), -100)), dim=1)
    shifted = sp.shard(targets, 1)
    items = tokens.shape[0] * (length - 1)
    of_shards = model(input_ids=local, shift_labels=shifted, num_items_in_batch=items, length=length).loss
    embedded = model(inputs_embeds=model.model.embed_tokens(tokens), labels=tokens, num_items_in_batch=2 * items).loss
    return sp.unshard(states.detach(), 1, length=length), full.detach(), of_shards.detach(), embedded.detach()


def test_shards_give_what_full_inputs_give() -> None:
    model, tokens = make_model("llama"), make_tokens(2, LENGTH)
    found = run_ranks(3, local_calls, [copy.deepcopy(model) for _ in range(3)], tokens, threads=True)
    expected = model.model(input_ids=tokens, use_cache=False).last_hidden_state
    loss = plain_step(model, tokens, tokens).loss
    for states, _, _, _ in found:
        torch.testing.assert_close(states, expected)
    for way in (1, 2, 3):
        mean = torch.stack([of_rank[way] for of_rank in found]).mean()
        torch.testing.assert_close(mean, loss / 2 if way == 3 else loss)


def logits_of(rank: int, models: list[Any], tokens: Tensor) -> Tensor:
    sp = ringattn.SequenceParallel(schedule="ring", layout="contiguous")
    model = ringattn.parallelize(models[rank], sp)
    return sp.unshard(model(tokens).logits.detach(), 1, length=tokens.shape[1])


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 3.0, 4.0], "factor": 2.0},
        {"rope_type": "yarn", "factor": 2.0},
    ],
    ids=lambda scaling: scaling["rope_type"],
)
def test_rotary_scaling_reads_the_length_of_the_whole_sequence(scaling: dict[str, Any]) -> None:
    rope = {**scaling, "rope_theta": 100.0, "original_max_position_embeddings": 16}
    model, tokens = make_model("llama", rope_parameters=rope, max_position_embeddings=16), make_tokens(1, LENGTH)
    models = [copy.deepcopy(model) for _ in range(2)]
    expected = model(tokens, use_cache=False).logits.detach()
    for found in run_ranks(2, logits_of, models, tokens, threads=True):
        torch.testing.assert_close(found, expected)


# What is refused.


def call(rank: int, changes: dict[str, Any], of_this_rank_alone: int | None, given: dict[str, Any]) -> None:
    model = ringattn.parallelize(make_model("llama", **changes), ringattn.SequenceParallel(schedule="ring"))
    if of_this_rank_alone not in (None, rank):
        given = {"input_ids": given["input_ids"]}
    try:
        model(**given)
    except ValueError:
        # A refused call leaves nothing behind.
        model(make_tokens(1, LENGTH))
        raise


TOKENS = make_tokens(1, LENGTH)
PADDED = torch.ones_like(TOKENS)
PADDED[0, -3:] = 0


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"attention_mask": PADDED}, "padding is not supported, and attention_mask masks 3 of 23 tokens: pack"),
        (
            {"attention_mask": torch.ones(1, 1, LENGTH, LENGTH)},
            "attention_mask must be [batch, tokens] and all ones, or left out, got (1, 1, 23, 23)",
        ),
        ({"use_cache": True}, "keeps no key and value cache, but was called with use_cache=True: call it with"),
        ({"output_attentions": True}, "never holds its attention weights"),
        ({"logits_to_keep": 1}, "logits_to_keep counts tokens of the whole sequence"),
        ({"labels": make_tokens(1, 5)}, "labels must be [1, 23] like the tokens, got the shape (1, 5)"),
        ({"labels": torch.full_like(TOKENS, -100)}, "a batch needs at least one target that is not -100, got none"),
        ({"documents": [0, 5, 20]}, "documents must end with the length of the sequence: it ends with 20"),
        ({"documents": [0, 9, 5, 23]}, "9 is followed by 5"),
        ({"length": 23}, "the shard of input_ids on rank"),
        ({"length": 46, "labels": TOKENS}, "labels of a shard can't be shifted"),
        ({"length": 46, "shift_labels": TOKENS}, "shift_labels of a shard need num_items_in_batch"),
        ({"length": 0}, "length is the global number of tokens, a whole number above 0, got 0"),
        ({"inputs_embeds": torch.zeros(1, LENGTH, 32)}, "either input_ids or inputs_embeds: give exactly one"),
        ({"input_ids": TOKENS[:, :1]}, "every rank needs a token, but layout 'zigzag' leaves a rank without any of 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_a_call_is_refused_on_every_rank(given: dict[str, Any], text: str) -> None:
    said = refusals(2, call, {}, None, {"input_ids": TOKENS, **given}, threads=True, timeout=30)
    for message in said:
        assert text in message, message


def test_what_one_rank_refuses_all_ranks_hear() -> None:
    said = refusals(2, call, {}, 1, {"input_ids": TOKENS, "attention_mask": PADDED}, threads=True, timeout=30)
    assert all("padding is not supported" in message for message in said), said


def other_tokens(rank: int) -> None:
    model = ringattn.parallelize(make_model("llama"), ringattn.SequenceParallel(schedule="ring"))
    model(make_tokens(1, LENGTH, seed=rank))


def test_ranks_must_be_given_the_same_inputs() -> None:
    for message in refusals(2, other_tokens, threads=True, timeout=30):
        assert re.search(
            r"input_ids, which every rank gets whole and alike, differs \(rank 0: int64 \[1, 23\]", message
        )


def test_no_cache_and_no_generation() -> None:
    model = parallelized()
    with pytest.raises(ValueError, match="keeps no key and value cache, but was called with use_cache=True"):
        model.generate(TOKENS, max_new_tokens=2, do_sample=False)


def test_dropout_in_training_is_refused() -> None:
    model = parallelized(attention_dropout=0.1)
    with pytest.raises(ValueError, match=r"dropout inside attention is not supported, got 0\.1 in LlamaAttention"):
        model(TOKENS)
    model.eval()(TOKENS)


def test_parallelizing_twice() -> None:
    model = parallelized()
    with pytest.raises(ValueError, match="parallelized already, with another SequenceParallel"):
        ringattn.parallelize(model, ringattn.SequenceParallel())
    before = model(TOKENS).logits
    assert ringattn.parallelize(model, model.ringattn.sp) is model
    torch.testing.assert_close(model(TOKENS).logits, before)


def test_a_sequence_longer_than_the_positions_is_warned_of_once() -> None:
    model = parallelized(max_position_embeddings=10)
    with pytest.warns(
        UserWarning, match=r"23 positions is longer than .* of 10, .* model\.rope_scaling=yarn:30\)"
    ) as said:
        model(TOKENS)
        model(TOKENS)
    assert len(said) == 1
    assert "'rope_type': 'yarn', 'rope_theta': 10000.0, 'factor': 3.0" in str(said[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallelized(max_position_embeddings=10)(TOKENS, documents=[0, 10, 20, 23])


# Models that are refused.


class _OwnAttention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(1)


class OwnModel(PreTrainedModel):
    """A model whose attention is its own."""

    config_class = PretrainedConfig

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.embed, self.attention = nn.Embedding(VOCABULARY, 8), _OwnAttention()
        self.post_init()

    def forward(self, input_ids: Tensor, **kwargs: Any) -> Tensor:
        return self.attention(self.embed(input_ids))


def test_a_model_with_no_attention_interface() -> None:
    with pytest.raises(ValueError, match="OwnModel does not use transformers' attention interface"):
        ringattn.parallelize(OwnModel(PretrainedConfig()), ringattn.SequenceParallel())
    with pytest.raises(ValueError, match="parallelize takes a Hugging Face causal LM, got Linear"):
        ringattn.parallelize(nn.Linear(2, 2), ringattn.SequenceParallel())


def test_a_model_that_goes_round_the_interface_is_found_at_its_first_call() -> None:
    model = parallelized()
    for layer in model.model.layers:
        layer.self_attn = _TakesAll()
    with pytest.raises(ValueError, match="computed its attention without transformers' attention interface"):
        model(TOKENS)


class _TakesAll(nn.Module):
    def forward(self, hidden_states: Tensor, **kwargs: Any) -> tuple[Tensor, None]:
        return hidden_states, None


def test_a_model_that_mixes_tokens_by_other_means() -> None:
    model = make_model("llama")
    model.model.layers[0].mixer = nn.Conv1d(2, 2, 3)
    with pytest.raises(ValueError, match=r"other means than full and sliding attention \(Conv1d\)"):
        ringattn.parallelize(model, ringattn.SequenceParallel())
    assert model.config._attn_implementation == "reference"


def test_the_attention_name_belongs_to_parallelized_models() -> None:
    parallelized()
    other = make_model("llama", attention="ringattn")
    with pytest.raises(ValueError, match="this LlamaAttention is not part of a parallelized model: call ringattn"):
        other(TOKENS, use_cache=False)
