"""The sizes of a LLaMA-like decoder: what a new model is built from and what an estimate counts. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Grouped-query attention, gated feed-forward, RMS norms, rotary positions.

    attention_bias: the four maps of attention have biases. local_start: what the query and key biases of a new model
        start at, in each channel; above 0, attention starts local (`ringattn.models.load.new_llama`).
    """

    vocabulary: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    key_value_heads: int
    head_dim: int
    max_positions: int
    rope_theta: float = 10000.0
    tie_embeddings: bool = False
    attention_bias: bool = False
    local_start: float = 0.0

    def layer_parameters(self) -> int:
        """Weights of one layer: four attention maps, three feed-forward maps, two norms, biases where there are any."""
        attention = 2 * self.hidden_size * self.head_dim * (self.heads + self.key_value_heads)
        if self.attention_bias:
            attention += self.head_dim * (self.heads + 2 * self.key_value_heads) + self.hidden_size
        return attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size

    def parameters(self) -> int:
        """All weights, with the embedding, the head (unless tied to it) and the last norm."""
        lookups = self.vocabulary * self.hidden_size * (1 if self.tie_embeddings else 2)
        return self.layers * self.layer_parameters() + lookups + self.hidden_size


def read_config(folder: Path) -> dict[str, Any]:
    """A checkpoint folder's `config.json`, the text model's part where there are several.

    Raises:
        ValueError: the folder or its config.json is missing.
    """
    path = folder / "config.json"
    if not path.is_file():
        reason = "has no config.json" if folder.is_dir() else "is not a folder"
        raise ValueError(
            f"model.path must be a Hugging Face checkpoint folder on this machine, but {folder} {reason}: "
            "save a model there with save_pretrained, or train a new one with model=llama_demo."
        )
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values.get("text_config", values)


def architecture_of(values: Mapping[str, Any]) -> Architecture:
    """The sizes that a `config.json` states.

    Raises:
        ValueError: one is missing, as in models that are no LLaMA-like decoders.
    """
    missing = [name for name in _NEEDED if values.get(name) is None]
    if missing:
        raise ValueError(
            f"a model is a decoder with sizes under LLaMA's names in its config.json, but {missing[0]} is missing "
            f"(model_type {values.get('model_type')}): use a LLaMA-like causal language model."
        )
    heads = values["num_attention_heads"]
    return Architecture(
        vocabulary=values["vocab_size"],
        hidden_size=values["hidden_size"],
        intermediate_size=values["intermediate_size"],
        layers=values["num_hidden_layers"],
        heads=heads,
        key_value_heads=values.get("num_key_value_heads") or heads,
        head_dim=values.get("head_dim") or values["hidden_size"] // heads,
        max_positions=values["max_position_embeddings"],
        tie_embeddings=bool(values.get("tie_word_embeddings", False)),
        attention_bias=bool(values.get("attention_bias", False)),
    )


_NEEDED = (
    "num_attention_heads",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "max_position_embeddings",
)


def has_rope_scaling(values: Mapping[str, Any]) -> bool:
    """Whether a `config.json` already stretches its rotary positions."""
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    return (rope.get("rope_type") or rope.get("type") or "default") != "default"
