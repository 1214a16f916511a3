"""Landmark models: what a plain one computes on data that holds landmarks, in fp64, on any number of ranks; saved,
loaded, and refused in one sentence."""

from __future__ import annotations

import copy
import json
import shutil
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.distributed as dist
import transformers
from ranks import run_ranks
from tiny_models import VOCABULARY, Step, assert_same_step, gradients_of, make_config, make_model, make_tokens
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM

import ringattn
from ringattn.kernels.landmark_naive import landmark_attention
from ringattn.models.attachment import cut_of
from ringattn.models.landmark import FAMILIES, from_landmark, to_landmark, with_blocks
from ringattn.models.landmark.convert import check_tokenizer
from ringattn.models.load import load_model
from ringattn.models.loss import shift

BLOCK = 4
LENGTH = 53
PACKED = (0, 9, 31, 31, 53)
NO_WINDOW = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {"use_sliding_window": False, "layer_types": None},
    "qwen3": {"use_sliding_window": False, "layer_types": None},
}


def plain(family: str = "llama", **changes: Any) -> Any:
    return make_model(family, attention="sdpa", **{**NO_WINDOW[family], **changes})


def with_landmarks_in_the_data(model: Any, tokens: Tensor) -> Tensor:
    """Logits of the ordinary tokens where the text itself holds landmarks, as in the paper: id 61, after each block."""

    def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: None, **options: Any) -> Any:
        rows = (x.transpose(1, 2) for x in (query, key, value))
        return landmark_attention(*rows, block=BLOCK, scale=options["scaling"]), None

    transformers.AttentionInterface.register("with_landmarks", attend)
    model.set_attn_implementation("with_landmarks")
    table = model.model.embed_tokens.weight.detach()
    rows = torch.cat((table, table.mean(0, keepdim=True)))
    ids: list[int] = []
    for start in range(0, LENGTH, BLOCK):
        block = list(range(start, min(start + BLOCK, LENGTH)))
        ids += [*block, *([-1] if len(block) == BLOCK else [])]
    given = torch.stack([torch.tensor([VOCABULARY if i < 0 else int(row[i]) for i in ids]) for row in tokens])
    logits = model(inputs_embeds=rows[given], use_cache=False).logits
    return logits[:, [place for place, i in enumerate(ids) if i >= 0]]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_reads_plain_text_as_the_paper_s_reads_text_with_landmarks(family):
    tokens = make_tokens(2, LENGTH)
    expected = with_landmarks_in_the_data(plain(family), tokens)
    found = to_landmark(plain(family), BLOCK)(input_ids=tokens).logits
    assert found.shape == (2, LENGTH, VOCABULARY)
    assert float((found - expected).detach().abs().max()) < 1e-10


def test_a_text_within_one_block_is_read_as_before():
    tokens, model = make_tokens(1, LENGTH), plain()
    expected = model(input_ids=tokens, use_cache=False).logits.detach()
    found = to_landmark(model, 63)(input_ids=tokens).logits
    assert float((found - expected).detach().abs().max()) < 1e-10


def test_the_landmark_starts_as_the_mean_of_the_other_rows_and_the_rest_is_taken_over():
    model = plain(tie_word_embeddings=True)
    table = model.model.embed_tokens.weight
    made = to_landmark(model, BLOCK)
    assert torch.equal(made.model.landmark.weight, table.mean(0, keepdim=True))
    assert made.model.embed_tokens.weight is table
    assert made.lm_head.weight is table
    assert made.config.vocab_size == VOCABULARY


def test_documents_are_read_as_if_each_stood_alone():
    model, tokens = to_landmark(plain(), BLOCK), make_tokens(1, LENGTH)
    found = model(input_ids=tokens, documents=PACKED).logits
    alone = [model(input_ids=tokens[:, a:b]).logits for a, b in pairwise(PACKED) if a < b]
    assert float((found - torch.cat(alone, dim=1)).detach().abs().max()) < 1e-10
    # As transformers says where documents end, too.
    restarts = torch.cat([torch.arange(b - a) for a, b in pairwise(PACKED)])[None]
    assert torch.equal(model(input_ids=tokens, position_ids=restarts).logits, found)


@pytest.mark.parametrize("parallel", [False, True])
def test_it_trains_under_autocast(parallel):
    model, tokens = to_landmark(plain(), BLOCK).float(), make_tokens(1, LENGTH)
    if parallel:
        model = ringattn.parallelize(model, ringattn.SequenceParallel())
    expected = model(input_ids=tokens, labels=tokens).loss.detach()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()
    assert float((loss - expected).detach().abs() / expected) < 1e-2
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def refused_on_one(rank: int) -> str:
    model = ringattn.parallelize(to_landmark(plain(), BLOCK), ringattn.SequenceParallel(timeout=60))
    tokens = cut_of(model).shard(make_tokens(1, LENGTH), 1)
    if rank == 1:
        tokens[0, 0] = VOCABULARY
    with pytest.raises(ValueError) as refused:
        model(input_ids=tokens, length=LENGTH)
    return str(refused.value)


def test_what_one_rank_refuses_the_others_hear_of():
    first, second = run_ranks(2, refused_on_one)
    assert "the landmark's own id" in second
    assert "the landmark's own id" in first


def test_scaling_by_the_length_counts_the_last_landmark():
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 100.0, "original_max_position_embeddings": 16}
    model = to_landmark(plain(rope_parameters=rope, max_position_embeddings=16), BLOCK)
    tokens = make_tokens(1, 12 * BLOCK)  # The last block is whole, and its landmark lies on one rank.
    expected = model(input_ids=tokens).logits.detach()
    for found in run_ranks(2, whole_logits, [copy.deepcopy(model) for _ in range(2)], tokens, threads=True):
        torch.testing.assert_close(found, expected)


def whole_logits(rank: int, models: list[Any], tokens: Tensor) -> Tensor:
    model = ringattn.parallelize(models[rank], ringattn.SequenceParallel(schedule="ring", layout="contiguous"))
    return cut_of(model).unshard(model(tokens).logits.detach(), 1, tokens.shape[1])


def alone_step(model: Any, tokens: Tensor, documents: tuple[int, ...] | None) -> Step:
    outputs = model(input_ids=tokens, documents=documents)
    loss = nn.functional.cross_entropy(outputs.logits.flatten(0, 1), shift(tokens, documents).flatten())
    loss.backward()
    return Step(loss.detach(), gradients_of(model), outputs.logits.detach())


def parallel_step(
    rank: int, models: list[Any], tokens: Tensor, schedule: str, layout: str, documents: Any, checkpointing: bool
) -> Step:
    sp = ringattn.SequenceParallel(schedule=schedule, layout=layout)
    model = ringattn.parallelize(models[rank], sp, gradient_checkpointing=checkpointing)
    outputs = model(input_ids=tokens, labels=tokens, documents=documents)
    outputs.loss.backward()
    loss, gradients = outputs.loss.detach().clone(), gradients_of(model)
    for tensor in (loss, *gradients.values()):
        dist.all_reduce(tensor)
        tensor /= sp.world
    logits = cut_of(model).unshard(outputs.logits.detach(), 1, tokens.shape[1], documents)
    return Step(loss, gradients, logits)


@pytest.mark.parametrize(
    "family, world, schedule, layout, documents, checkpointing",
    [
        ("llama", 2, "tokenring", "zigzag", None, True),
        ("qwen3", 2, "ring", "balanced", PACKED, False),
        ("llama", 3, "allgather", "striped", PACKED, False),
        pytest.param("mistral", 4, "ulysses", "contiguous", None, True, marks=pytest.mark.slow),
    ],
)
def test_ranks_together_compute_loss_logits_and_gradients_of_one_process(
    family, world, schedule, layout, documents, checkpointing
):
    changes = {"num_key_value_heads": 4} if schedule == "ulysses" else {}
    model, tokens = to_landmark(plain(family, **changes), BLOCK), make_tokens(1, LENGTH)
    models = [copy.deepcopy(model) for _ in range(world)]
    arguments = (models, tokens, schedule, layout, documents, checkpointing)
    found = run_ranks(world, parallel_step, *arguments, threads=True)
    expected = alone_step(model, tokens, documents)
    assert "model.landmark.weight" in expected.gradients
    for step in found:
        assert_same_step(step, expected, tolerance=1e-9)


@pytest.fixture
def folder(tmp_path):
    made = to_landmark(transformers.LlamaForCausalLM(make_config("llama")), BLOCK)
    made.save_pretrained(tmp_path / "landmark")
    return tmp_path / "landmark"


def test_auto_classes_load_what_was_saved(folder):
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert type(model).__name__ == "LandmarkLlamaForCausalLM"
    assert type(AutoModel.from_pretrained(folder)).__name__ == "LandmarkLlamaModel"
    assert model.config.landmark_block == BLOCK
    assert json.loads((folder / "config.json").read_text())["landmark_block"] == BLOCK
    assert not report["missing_keys"] and not report["unexpected_keys"]
    again = load_model(folder)
    tokens = make_tokens(1, LENGTH)
    assert torch.equal(again(input_ids=tokens).logits, model(input_ids=tokens).logits)


def test_there_and_back_is_the_plain_model_again():
    tokens, model = make_tokens(1, LENGTH), plain()
    expected = model(input_ids=tokens, use_cache=False).logits
    again = from_landmark(to_landmark(model, BLOCK))
    assert type(again) is transformers.LlamaForCausalLM
    assert not hasattr(again.config, "landmark_block")
    assert torch.equal(again(input_ids=tokens, use_cache=False).logits, expected)


def test_weights_under_the_other_kind_s_config_are_refused(folder, tmp_path):
    transformers.LlamaForCausalLM(make_config("llama")).save_pretrained(tmp_path / "plain")
    for weights, config, message in (
        (tmp_path / "plain", folder, r"weights have no landmark.*convert source=FOLDER out=NEW to=landmark"),
        (
            folder,
            tmp_path / "plain",
            r"weights.*are a landmark model's, but its config.json is a plain one's.*to=plain",
        ),
    ):
        mixed = tmp_path / f"mixed-{weights.name}"
        shutil.copytree(weights, mixed)
        shutil.copy(config / "config.json", mixed)
        with pytest.raises(ValueError, match=message):
            load_model(mixed)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: to_landmark(plain(), 0), "at least 1 ordinary token, got landmark_block=0"),
        (lambda: to_landmark(plain(), 2.5), "at least 1 ordinary token, got landmark_block=2.5"),
        (lambda: to_landmark(make_model("mistral"), 4), "sliding window of 9"),
        (lambda: to_landmark(make_model("gemma2"), 4), "families llama, mistral, qwen2, qwen3, got model_type gemma2"),
        (lambda: to_landmark(nn.Linear(1, 1), 4), "takes a Hugging Face causal LM"),
        (lambda: to_landmark(to_landmark(plain(), 4), 5), "is a landmark model already, with blocks of 4 tokens"),
        (
            lambda: with_blocks(to_landmark(plain(), 4), 5),
            "landmarks behind every 4 tokens, got model.landmark_block=5",
        ),
        (lambda: from_landmark(plain()), "is no landmark model"),
        (lambda: to_landmark(plain(), 4).set_attn_implementation("sdpa"), "grouped by blocks, which .*'sdpa'"),
    ],
)
def test_what_can_t_become_one_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"input_ids": torch.tensor([[3, VOCABULARY]])}, "from 0 to 60, got 61, the landmark's own id"),
        ({"input_ids": torch.tensor([[3, 70]])}, "from 0 to 60, got 70, no token's"),
        ({"input_ids": make_tokens(1, 9), "use_cache": True}, "use_cache=True: generate with ringattn.generate"),
        ({"input_ids": make_tokens(1, 9), "attention_mask": torch.eye(9)[:1]}, "attention_mask"),
        ({"input_ids": make_tokens(1, 9), "position_ids": torch.arange(1, 10)[None]}, "counts positions by itself"),
    ],
)
def test_a_call_that_would_be_wrong_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        to_landmark(plain(), BLOCK)(**arguments)


def test_a_tokenizer_that_uses_the_landmark_s_id_is_refused(tmp_path):
    Tokenizer(WordLevel({"a": 0, "b": 1, "c": 2}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    check_tokenizer(tmp_path, 3)
    with pytest.raises(ValueError, match=r"landmark's id is 2.*uses ids up to 2.*resize_token_embeddings"):
        check_tokenizer(tmp_path, 2)
