"""A trained LLaMA into a hybrid: linear mixers in the place of some of its attentions, everything else as it was.

Embedding, norms, feed-forwards and head keep their weights, and the layers that stay full their attention with its
rotary positions. A mixer takes query, key, value and output maps from the attention whose place it takes and starts as
`ringattn.models.hybrid.start` says. What comes out needs training: first each mixer to its attention, then the whole
(`ringattn.training.distillation`), in the order of MOHAWK (arXiv 2408.10189, section 3) and LoLCATs (2410.10254).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ringattn.layers.linear.mixers import mixer_class
from ringattn.models.hybrid.config import HybridConfig
from ringattn.models.hybrid.model import HybridForCausalLM
from ringattn.models.hybrid.start import start_from_attention

# Families whose layer is LLaMA's: norm, rotated attention, norm, gated feed-forward; what they add is checked.
_FAMILIES = ("llama", "mistral", "qwen2")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """pattern, mixer, conv_width, sliding_window: as `HybridConfig`. seed: of the weights that nothing is copied to."""

    pattern: str | Sequence[str] = "3:1"
    mixer: str = "gated_deltanet"
    conv_width: int = 4
    sliding_window: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Converted:
    """model: the hybrid, in the source's dtype. dropped: names of the source's tensors that have no place in it."""

    model: HybridForCausalLM
    dropped: tuple[str, ...]

    @property
    def linear(self) -> int:
        """How many layers are linear."""
        return self.model.config.layer_types.count("linear_attention")

    def describe(self) -> str:
        """One line or two."""
        config = self.model.config
        text = f"{self.linear} of {config.num_hidden_layers} layers are {config.mixer} now"
        if self.linear:
            text += f", {config.linear_heads} heads of {config.linear_key_dim} and {config.linear_value_dim} channels"
        if self.dropped:
            text += (
                f"; mixers have no biases in these maps, so {len(self.dropped)} tensors are left out, the first of "
                f"them {self.dropped[0]}"
            )
        return text


def to_hybrid(source: PreTrainedModel, recipe: Recipe | None = None) -> Converted:
    """The hybrid that `recipe` makes of a LLaMA-like causal LM; the source stays as it is.

    Raises:
        ValueError: a source of another family, or with parts that a hybrid has no place for; a pattern or mixer that
        does not fit.
    """
    recipe = recipe or Recipe()
    config = _config_of(source, recipe)
    state = torch.random.get_rng_state()
    try:
        torch.manual_seed(recipe.seed)
        model: Any = HybridForCausalLM(config)
        model.to(source.dtype)
    finally:
        torch.random.set_rng_state(state)
    with torch.no_grad():
        dropped = _copy(source, model)
    model.tie_weights()
    inner: Any = source.base_model
    for old, new in zip(inner.layers, model.model.layers, strict=True):
        if new.linear:
            start_from_attention(
                new.mixer,
                old.self_attn,
                norm=old.input_layernorm.weight,
                groups=config.num_attention_heads // config.num_key_value_heads,
                longest=config.max_position_embeddings,
            )
    if source.generation_config is not None:
        model.generation_config = copy.deepcopy(source.generation_config)
    return Converted(model.eval(), dropped)


def _copy(source: nn.Module, model: nn.Module) -> tuple[str, ...]:
    """Every tensor of the source into its place; returns the names of biases of attentions that mixers replace."""
    theirs, ours = source.state_dict(), model.state_dict()
    dropped = []
    for name, tensor in theirs.items():
        if name in ours:
            ours[name].copy_(tensor)
            continue
        layer, inside, rest = name.partition(".self_attn.")
        replaced = inside and any(other.startswith(f"{layer}.mixer.") for other in ours)
        if not replaced or rest not in [f"{one}_proj.{kind}" for one in "qkvo" for kind in ("weight", "bias")]:
            raise ValueError(
                f"every weight of the source needs a place in the hybrid, and {name} has none: this model has parts "
                "that LLaMA's layer lacks"
            )
        if rest.endswith("bias"):
            dropped.append(name)
    for name, tensor in ours.items():
        # Qwen2's attention has biases in three of its four maps.
        if name not in theirs and name.endswith("self_attn.o_proj.bias"):
            tensor.zero_()
    return tuple(dropped)


def _config_of(source: PreTrainedModel, recipe: Recipe) -> HybridConfig:
    config: Any = source.config
    if config.model_type == HybridConfig.model_type:
        raise ValueError("the source is a hybrid already: convert the model that it was made from")
    if config.model_type not in _FAMILIES:
        raise ValueError(
            f"LLaMA-like models are converted ({', '.join(_FAMILIES)}), got model_type {config.model_type!r}: its "
            "layers differ from LLaMA's"
        )
    windows = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    if windows or (config.model_type == "mistral" and config.sliding_window is not None):
        raise ValueError(
            f"the source attends over a window of {config.sliding_window} tokens, and a hybrid's full layers over all: "
            "give a model without sliding_window"
        )
    if config.hidden_act != "silu" or getattr(config, "mlp_bias", False):
        raise ValueError(
            "a hybrid's feed-forward is LLaMA's usual one, with silu and without biases, got hidden_act "
            f"{config.hidden_act!r} and mlp_bias {getattr(config, 'mlp_bias', False)}: this model can't be converted"
        )
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads, dim = config.num_attention_heads, head_dim
    kind = mixer_class(recipe.mixer)
    if recipe.mixer == "hgrn":
        heads, key_dim, dim = 1, 1, heads * head_dim
    else:
        key_dim = head_dim
    return HybridConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=head_dim,
        mixer=recipe.mixer,
        pattern=recipe.pattern,
        linear_heads=heads,
        linear_key_dim=key_dim,
        linear_value_dim=dim,
        conv_width=recipe.conv_width,
        linear_gate_bias=kind.takes_gate_bias,
        linear_value_silu=not kind.has_value_silu,
        sliding_window=recipe.sliding_window,
        rope_parameters=copy.deepcopy(config.rope_parameters),
        max_position_embeddings=config.max_position_embeddings,
        rms_norm_eps=config.rms_norm_eps,
        initializer_range=config.initializer_range,
        hidden_act=config.hidden_act,
        attention_bias=config.model_type == "qwen2" or bool(getattr(config, "attention_bias", False)),
        attention_dropout=config.attention_dropout,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        tie_word_embeddings=config.tie_word_embeddings,
    )
