"""Which models can be parallelized: those in which tokens meet in attention alone, and attention can be replaced."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ringattn.layers.linear.mixers.mixer import Mixer
from ringattn.models.attend import NAME

_LAYER_TYPES = {"full_attention", "sliding_attention"}


def text_model(model: nn.Module) -> PreTrainedModel:
    """The Hugging Face model in `model`: itself, or what a PEFT model wraps. Raises ValueError where there is none."""
    unwrap = getattr(model, "get_base_model", None)
    inner = unwrap() if callable(unwrap) else model
    if not isinstance(inner, PreTrainedModel):
        raise ValueError(
            f"parallelize takes a Hugging Face causal LM, got {type(model).__name__}: for other models, call "
            "sp.attention in their attention"
        )
    return inner


def check_supported(model: PreTrainedModel) -> None:
    """Raise ValueError where a model would give other results on shards, before anything of it is changed."""
    name = type(model).__name__
    takes = inspect.signature(model.forward).parameters
    if any(parameter in takes for parameter in ("pixel_values", "input_features")):
        raise ValueError(f"{name} reads more than text, which is not supported: parallelize its language model")
    if getattr(model.config, "is_encoder_decoder", False):
        raise ValueError(f"{name} is an encoder and a decoder, which is not supported: use a causal LM")
    if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in takes.values()):
        raise ValueError(
            f"{name} takes no keyword arguments that it could hand to its attention: it has no attention interface, "
            "and can't be parallelized"
        )
    config = model.config.get_text_config()
    known = _LAYER_TYPES | getattr(model, "sequence_parallel_layers", frozenset())
    others = sorted(set(getattr(config, "layer_types", None) or ()) - known)
    mixers = sorted({type(module).__name__ for module in model.modules() if isinstance(module, nn.Conv1d)})
    if others or mixers or getattr(config, "attention_chunk_size", None):
        what = ", ".join([*others, *mixers]) or "chunked attention"
        raise ValueError(
            f"{name} mixes tokens by other means than full and sliding attention ({what}), which would stop at the "
            "borders of shards: this model can't be parallelized"
        )
    if getattr(config, "output_router_logits", False):
        raise ValueError(
            f"{name} adds a router loss that would see each rank's tokens alone: set config.output_router_logits "
            "to False"
        )


def attention_modules(model: PreTrainedModel) -> list[nn.Module]:
    """The modules in which tokens meet: those that call the attention function, and mixers of our own."""
    return [
        module
        for module in model.modules()
        if hasattr(module, "is_causal") or type(module).__name__.endswith("Attention") or isinstance(module, Mixer)
    ]


def set_attention(model: PreTrainedModel) -> None:
    """Make `model` call our attention function. Raises ValueError where it has no attention interface."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    configs: list[Any] = [part.config for part in model.modules() if isinstance(part, PreTrainedModel)]
    if attention_modules(model) and all(config._attn_implementation == NAME for config in configs):
        return
    if model.config._attn_implementation != before:
        model.set_attn_implementation(before)
    raise ValueError(
        f"{type(model).__name__} does not use transformers' attention interface, so its attention can't be replaced: "
        "use a model that does (the LLaMA, Qwen, Mistral and Gemma families among them)"
    )
