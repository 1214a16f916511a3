"""RoPE scaling: what each kind writes, which means the same to plain transformers and to several ranks."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks
from tiny_models import make_config, make_tokens
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaForCausalLM

import ringattn
from ringattn.models.load import load_model, stretch_positions
from ringattn.settings.rope import RopeScaling, parse_rope_scaling, scaled_positions

TRAINED, TARGET = 16, 40
KINDS = ("linear:40", "ntk:40", "dynamic:40", "yarn:40", "llama3:40", "theta:70000")
CONFIG = {
    "model_type": "llama",
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
    "max_position_embeddings": TRAINED,
    "head_dim": 8,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(1)
    LlamaForCausalLM(make_config("llama", max_position_embeddings=TRAINED, initializer_range=0.3)).save_pretrained(path)
    return path


def test_a_kind_and_a_target_in_one_word() -> None:
    assert parse_rope_scaling("yarn:16384") == RopeScaling(kind="yarn", target=16384)
    assert parse_rope_scaling("yarn:16k") == RopeScaling(kind="yarn", target=16384)
    assert parse_rope_scaling("ntk") == RopeScaling(kind="ntk")
    assert parse_rope_scaling("theta:1e6") == RopeScaling(kind="theta", theta=1e6)


@pytest.mark.parametrize(
    ("word", "parameters", "reach"),
    [
        ("linear:40", {"rope_type": "linear", "rope_theta": 1000.0, "factor": 2.5}, 40),
        # 1000 x 2.5^(8 / 6)
        ("ntk:40", {"rope_type": "default", "rope_theta": pytest.approx(3393.02, abs=0.01)}, 40),
        ("dynamic:40", {"rope_type": "dynamic", "rope_theta": 1000.0, "factor": 2.5}, TRAINED),
        ("theta:5000", {"rope_type": "default", "rope_theta": 5000.0}, 20),
        (
            "yarn",
            {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 1.25, "original_max_position_embeddings": TRAINED},
            20,
        ),
        (
            "llama3:32",
            {
                "rope_type": "llama3",
                "rope_theta": 1000.0,
                "factor": 2.0,
                "original_max_position_embeddings": TRAINED,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
            },
            32,
        ),
    ],
)
def test_what_each_kind_writes(word: str, parameters: dict[str, Any], reach: int) -> None:
    changes = scaled_positions(CONFIG, parse_rope_scaling(word), length=20)
    assert changes == {"rope_parameters": parameters, "max_position_embeddings": reach}


def test_a_config_of_transformers_4_is_read_too() -> None:
    old = {"model_type": "llama", "rope_theta": 1000.0, "rope_scaling": None, "max_position_embeddings": TRAINED}
    changes = scaled_positions(old, parse_rope_scaling("linear:32"), length=None)
    assert changes["rope_parameters"] == {"rope_type": "linear", "rope_theta": 1000.0, "factor": 2.0}


@pytest.mark.parametrize("word", KINDS)
def test_a_saved_model_means_the_same_to_plain_transformers(folder: Path, tmp_path: Path, word: str) -> None:
    scaled = load_model(folder, rope_scaling=word, length=TARGET)
    scaled.save_pretrained(tmp_path)
    plain, tokens = AutoModelForCausalLM.from_pretrained(tmp_path), make_tokens(1, TARGET)
    with torch.no_grad():
        found = plain(tokens).logits
        assert torch.equal(found, scaled(tokens).logits)
        unscaled = load_model(folder)(tokens).logits
    assert not torch.allclose(found, unscaled, atol=1e-3)


def sharded_logits(rank: int, models: list[Any], tokens: Tensor) -> Tensor:
    sp = ringattn.SequenceParallel()
    model = ringattn.parallelize(models[rank], sp)
    with torch.no_grad():
        return sp.unshard(model(tokens).logits, 1, length=tokens.shape[1])


@pytest.mark.parametrize("word", KINDS)
def test_two_ranks_turn_as_one_process_does(folder: Path, word: str) -> None:
    model, tokens = load_model(folder, rope_scaling=word, length=TARGET).double(), make_tokens(1, TARGET)
    models = [copy.deepcopy(model) for _ in range(2)]
    with torch.no_grad():
        expected = model(tokens).logits
    for found in run_ranks(2, sharded_logits, models, tokens, threads=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("word", "changes", "message"),
    [
        ("yarm:40", {}, r"one of linear, ntk, dynamic, yarn, llama3, theta, got 'yarm'\. Did you mean 'yarn'\?"),
        ("yarn:many", {}, r"a kind and the positions to reach, got 'many' after yarn"),
        ("theta:0.5", {}, r"takes the new base of the frequencies, above 1, got '0\.5'"),
        ("yarn:16", {}, r"beyond the 16 positions that the model was trained on, got a target of 16"),
        ("yarn:20", {}, r"yarn:20 must reach the run's 24 tokens a sequence: write model\.rope_scaling=yarn:24"),
        (
            "yarn:40",
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0}},
            r"not scaled yet, but llama is \(llama3, 16 positions\)",
        ),
        ("yarn:40", {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}}, r"is \(linear, 16"),
        (
            "yarn:40",
            {"rope_parameters": {"full_attention": {"rope_theta": 1e4}, "sliding_attention": {"rope_theta": 1e3}}},
            r"one for each of full_attention, sliding_attention: drop model\.rope_scaling",
        ),
        ("yarn:40", {"rope_parameters": {}}, r"has no rope_theta: drop model\.rope_scaling"),
        ("yarn:40", {"max_position_embeddings": None}, r"has no max_position_embeddings"),
    ],
)
def test_what_can_not_be_stretched_is_said(word: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scaled_positions({**CONFIG, **changes}, parse_rope_scaling(word), length=24)


def test_a_model_with_rotary_settings_by_layer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gemma3_text has one for each of full_attention, sliding_attention"):
        stretch_positions(make_config("gemma3"), "yarn:400")
