"""The sizes of models: each weight by name and shape, in the model's own order."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from ringattn.models.hybrid import HybridConfig, HybridForCausalLM
from ringattn.planner.architecture import Architecture, HybridArchitecture, architecture_of, read_config
from ringattn.planner.mixers import MIXER_NAMES
from ringattn.settings.hybrid import HybridSettings, hybrid_of
from ringattn.settings.typed import build

CONF = Path(__file__).resolve().parents[2] / "conf" / "model"
PATTERNS = ("3:1", "pure", "full", "linear,sliding,full,linear")
SIZES = Architecture(
    vocabulary=300,
    hidden_size=64,
    intermediate_size=96,
    layers=4,
    heads=4,
    key_value_heads=2,
    head_dim=16,
    max_positions=256,
)


def weights_of(config: HybridConfig) -> list[tuple[str, int]]:
    """(last part of the name, numbers) of each weight of the real model, on no device."""
    with torch.device("meta"):
        model = HybridForCausalLM(config)
    found = []
    for name, parameter in model.named_parameters():
        *_, before, last = [".", *name.removesuffix(".weight").split(".")]
        found.append((f"{before}.bias" if last == "bias" else last, parameter.numel()))
    return found


def listed(sizes: Architecture) -> list[tuple[str, int]]:
    return [(weight.name, weight.size) for weight in sizes.weights()]


def settings(mixer: str, pattern: str, **changes: int) -> HybridSettings:
    return HybridSettings(mixer=mixer, pattern=pattern, sliding_window=32, **changes)


def config_of(sizes: Architecture, hybrid: HybridSettings, **changes: object) -> HybridConfig:
    return HybridConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.hidden_size,
        intermediate_size=sizes.intermediate_size,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.key_value_heads,
        head_dim=sizes.head_dim,
        max_position_embeddings=sizes.max_positions,
        mixer=hybrid.mixer,
        pattern=hybrid.listed_pattern(),
        linear_heads=hybrid.linear_heads,
        linear_key_dim=hybrid.linear_key_dim,
        linear_value_dim=hybrid.linear_value_dim,
        conv_width=hybrid.conv_width,
        sliding_window=hybrid.sliding_window,
        tie_word_embeddings=sizes.tie_embeddings,
        attention_bias=sizes.attention_bias,
        **changes,
    )


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("mixer", MIXER_NAMES)
def test_weights_are_those_of_the_hybrid_in_its_order(mixer, pattern):
    odd = {} if mixer == "hgrn" else {"linear_heads": 2, "linear_key_dim": 6, "linear_value_dim": 10}
    hybrid = settings(mixer, pattern, **odd)
    assert listed(hybrid_of(SIZES, hybrid)) == weights_of(config_of(SIZES, hybrid))


@pytest.mark.parametrize("name", ["hybrid_demo", "hybrid_340m", "hybrid_1b3"])
def test_weights_of_the_shipped_hybrids(name):
    shipped = yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))
    sizes = build(Architecture, shipped["architecture"])
    for mixer in MIXER_NAMES:
        hybrid = replace(build(HybridSettings, shipped["hybrid"]), mixer=mixer)
        if mixer == "hgrn" and hybrid.linear_key_dim is not None:
            # A channel of HGRN stands for itself.
            hybrid = replace(hybrid, linear_key_dim=1)
        assert listed(hybrid_of(sizes, hybrid)) == weights_of(config_of(sizes, hybrid))


@pytest.mark.parametrize(("mixer", "biased"), [("gla", True), ("gla", False), ("hgrn2", False)])
def test_a_folder_says_the_same(tmp_path, mixer, biased):
    """Converted models have biases in their gates, where there are gates."""
    hybrid = settings(mixer, "linear,full,sliding,linear")
    sizes = replace(SIZES, tie_embeddings=True, attention_bias=True)
    config = config_of(sizes, hybrid, linear_gate_bias=biased)
    config.save_pretrained(tmp_path)
    found = architecture_of(read_config(tmp_path))
    assert isinstance(found, HybridArchitecture)
    assert found.kinds() == ("linear", "full", "sliding", "linear") and found.window("sliding") == 32
    assert listed(found) == weights_of(config)
    assert replace(found, linear=replace(found.linear, gate_bias=False)) == hybrid_of(sizes, hybrid)
    assert json.loads((tmp_path / "config.json").read_text())["state_route"] == "allgather"


def test_a_hybrid_in_words():
    made = hybrid_of(SIZES, settings("gla", "linear,full,sliding,linear"))
    assert made.describe() == "2 linear (gla, 4 heads of 8 and 16 channels), 1 sliding (over 32 keys), 1 full"
