"""Which model a run trains or reads."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ringattn.planner.architecture import Architecture
from ringattn.settings.hybrid import HybridSettings, check_hybrid
from ringattn.settings.rope import parse_rope_scaling
from ringattn.settings.rules import not_negative, positive


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Either `architecture` (a new model) or `path`: a Hugging Face checkpoint folder, a GGUF file, `package:NAME` or a
    name on the hub. `hybrid`: linear attention in some layers of a new model. `rope_scaling`: KIND[:TARGET], as
    `ringattn.settings.rope` reads it.
    """

    path: str | None = None
    architecture: Architecture | None = None
    hybrid: HybridSettings | None = None
    rope_scaling: str | None = None


def check_model(model: ModelConfig) -> None:
    """The rules that one field's type cannot state; ValueError where one is broken."""
    if (model.path is None) == (model.architecture is None):
        raise ValueError(
            "a run has either model.path (a checkpoint folder) or model.architecture (sizes of a new "
            f"model), got {'neither' if model.path is None else 'both'}: choose with model=folder "
            "model.path=... or model=llama_demo."
        )
    if model.architecture is not None:
        _check_architecture(model.architecture)
    if model.hybrid is not None:
        if model.architecture is None:
            raise ValueError(
                "model.hybrid says which layers of a new model are linear, and a checkpoint has its own, got "
                f"model.path={model.path}: drop model.hybrid."
            )
        check_hybrid(model.hybrid, layers=model.architecture.layers)
    if model.rope_scaling is not None:
        parse_rope_scaling(model.rope_scaling)
    if model.rope_scaling is not None and model.path is None:
        raise ValueError(
            "RoPE scaling stretches the positions of a trained model, got "
            f"model.rope_scaling={model.rope_scaling} for a new one: raise model.architecture.max_positions "
            "instead."
        )


def _check_architecture(sizes: Architecture) -> None:
    numbers = dataclasses.asdict(sizes)
    start = numbers.pop("local_start")
    positive({f"model.architecture.{k}": v for k, v in numbers.items() if not isinstance(v, bool)})
    not_negative({"model.architecture.local_start": start})
    if start > 0 and not sizes.attention_bias:
        raise ValueError(
            "attention starts local through its biases: model.architecture.local_start needs attention_bias, got "
            f"local_start={start} without: write model.architecture.attention_bias=true."
        )
    if sizes.heads % sizes.key_value_heads:
        raise ValueError(
            "query heads share key/value heads evenly: model.architecture.heads must be a multiple of "
            f"key_value_heads, got {sizes.heads} and {sizes.key_value_heads}: write for example "
            f"model.architecture.key_value_heads={sizes.heads}."
        )
    if sizes.vocabulary < 257:
        raise ValueError(
            "model.architecture.vocabulary counts 256 bytes, the end-of-text token and merges, got "
            f"{sizes.vocabulary}: write model.architecture.vocabulary=512."
        )
    if sizes.head_dim % 2:
        raise ValueError(
            f"RoPE turns pairs of channels: model.architecture.head_dim must be even, got {sizes.head_dim}: "
            f"write model.architecture.head_dim={sizes.head_dim + 1}."
        )
