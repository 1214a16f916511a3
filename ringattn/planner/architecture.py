"""The sizes of a LLaMA-like decoder or of a hybrid: what a new model is built from, an estimate counts. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ringattn.planner.mixers import LinearSizes, Weight

# Kinds of layers: attention over all tokens before, over a window of them, and none.
FULL, SLIDING, LINEAR = "full", "sliding", "linear"
# `model_type` of a hybrid's config.json (`ringattn.models.hybrid`).
HYBRID_TYPE = "ringattn_hybrid"
# Matrices that are looked up in or compared with, and map nothing.
LOOKUPS = ("embed_tokens", "lm_head")


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

    def kinds(self) -> tuple[str, ...]:
        """`full`, `linear` or `sliding`: how each layer mixes tokens."""
        return (FULL,) * self.layers

    def mixer(self) -> LinearSizes | None:
        """Of its linear layers, where it has any."""
        return None

    def window(self, kind: str) -> int | None:
        """How many keys a token of such a layer sees, None where it sees all before it."""
        return None

    def layer_weights(self, kind: str = FULL) -> list[Weight]:
        """Of such a layer: four attention maps, with biases where there are any, or a mixer; three feed-forward maps;
        two norms."""
        mixing: list[Weight] = []
        hidden, inner = self.hidden_size, self.intermediate_size
        mixer = self.mixer()
        if kind == LINEAR and mixer is not None:
            mixing = mixer.weights()
        else:
            queries, keys = self.heads * self.head_dim, self.key_value_heads * self.head_dim
            for name, rows, columns in (
                ("q_proj", queries, hidden),
                ("k_proj", keys, hidden),
                ("v_proj", keys, hidden),
                ("o_proj", hidden, queries),
            ):
                mixing.append(Weight(name, rows, columns))
                mixing += [Weight(f"{name}.bias", 1, rows)] if self.attention_bias else []
        maps = [
            Weight("gate_proj", inner, hidden),
            Weight("up_proj", inner, hidden),
            Weight("down_proj", hidden, inner),
        ]
        return [*mixing, *maps, *(Weight(f"{name}_layernorm", 1, hidden) for name in ("input", "post_attention"))]

    def weights(self) -> list[Weight]:
        """Of each weight, in the order in which the model lists them, with the embedding, the head (unless tied to it)
        and the last norm."""
        layers = {kind: self.layer_weights(kind) for kind in set(self.kinds())}
        inside = [weight for kind in self.kinds() for weight in layers[kind]]
        first, *last = (Weight(name, self.vocabulary, self.hidden_size) for name in LOOKUPS)
        return [first, *inside, Weight("norm", 1, self.hidden_size), *([] if self.tie_embeddings else last)]

    def layer_parameters(self, kind: str = FULL) -> int:
        """Numbers in the weights of such a layer."""
        return size_of(self.layer_weights(kind))

    def parameters(self) -> int:
        """Numbers in all weights."""
        return size_of(self.weights())


@dataclass(frozen=True, kw_only=True)
class HybridArchitecture(Architecture):
    """With linear attention in some layers, and attention over a window in others.

    linear: the mixer of the linear ones. pattern: the kind of each layer. sliding_window: how many keys a token of a
    sliding layer sees, its own included.
    """

    linear: LinearSizes
    pattern: tuple[str, ...]
    sliding_window: int | None = None

    def kinds(self) -> tuple[str, ...]:
        return self.pattern

    def mixer(self) -> LinearSizes | None:
        return self.linear if LINEAR in self.pattern else None

    def window(self, kind: str) -> int | None:
        return self.sliding_window if kind == SLIDING else None

    def weights(self) -> list[Weight]:
        """As the plain ones, behind the lower bounds of the linear layers' forget gates, where the mixer has them."""
        bounds = self.linear.bound_channels() * self.pattern.count(LINEAR)
        return [*([Weight("lower_bounds", 1, bounds)] if bounds else []), *super().weights()]

    def describe(self) -> str:
        """`18 linear (gated_deltanet, 6 heads of 256 and 512 channels), 6 full`."""
        linear = self.linear
        words = {
            LINEAR: f" ({linear.mixer}, {linear.heads} heads of {linear.key_dim} and {linear.value_dim} channels)",
            SLIDING: f" (over {self.sliding_window} keys)",
        }
        counts = [(kind, self.pattern.count(kind)) for kind in (LINEAR, SLIDING, FULL)]
        return ", ".join(f"{count} {kind}{words.get(kind, '')}" for kind, count in counts if count)


def size_of(weights: Iterable[Weight]) -> int:
    """Numbers in weights."""
    return sum(weight.size for weight in weights)


def in_matrices(weights: Iterable[Weight]) -> int:
    """Numbers in those that are matrices, which multiply each token."""
    return size_of(weight for weight in weights if weight.rows > 1)


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
    """The sizes that a `config.json` states; those of a hybrid are a `HybridArchitecture`.

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
    sizes = Architecture(
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
    if values.get("model_type") != HYBRID_TYPE:
        return sizes
    return HybridArchitecture(
        **{item.name: getattr(sizes, item.name) for item in fields(Architecture)},
        linear=LinearSizes(
            mixer=values["mixer"],
            hidden_size=sizes.hidden_size,
            heads=values["linear_heads"],
            key_dim=values["linear_key_dim"],
            value_dim=values["linear_value_dim"],
            conv_width=values["conv_width"],
            gate_bias=values.get("linear_gate_bias", False),
            value_silu=values.get("linear_value_silu", True),
        ),
        pattern=tuple(name.removesuffix("_attention") for name in values["layer_types"]),
        sliding_window=values.get("sliding_window"),
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
