"""The landmark models of each family, and their places among transformers' Auto classes.

A configuration is the family's own with `landmark_block`, the ordinary tokens of a block, and a model type of its own,
so that no checkpoint is taken for one of another kind. Weights are the family's under its names, and one row more,
`model.landmark.weight`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    MistralConfig,
    MistralForCausalLM,
    MistralModel,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Model,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
)

from ringattn.models.landmark.decoder import LandmarkAttention, LandmarkDecoder

_PREFIX = "landmark_"


class LandmarkCausal(LandmarkAttention):
    """A causal LM around a landmark decoder. To be listed before the family's class."""

    decoder: type[PreTrainedModel]

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        self.model = self.decoder(config)
        self.post_init()  # type: ignore[attr-defined]


class LandmarkLlamaConfig(LlamaConfig):
    model_type = "landmark_llama"


class LandmarkLlamaModel(LandmarkDecoder, LlamaModel):
    config_class = LandmarkLlamaConfig


class LandmarkLlamaForCausalLM(LandmarkCausal, LlamaForCausalLM):
    config_class = LandmarkLlamaConfig
    decoder = LandmarkLlamaModel


class LandmarkMistralConfig(MistralConfig):
    model_type = "landmark_mistral"


class LandmarkMistralModel(LandmarkDecoder, MistralModel):
    config_class = LandmarkMistralConfig


class LandmarkMistralForCausalLM(LandmarkCausal, MistralForCausalLM):
    config_class = LandmarkMistralConfig
    decoder = LandmarkMistralModel


class LandmarkQwen2Config(Qwen2Config):
    model_type = "landmark_qwen2"


class LandmarkQwen2Model(LandmarkDecoder, Qwen2Model):
    config_class = LandmarkQwen2Config


class LandmarkQwen2ForCausalLM(LandmarkCausal, Qwen2ForCausalLM):
    config_class = LandmarkQwen2Config
    decoder = LandmarkQwen2Model


class LandmarkQwen3Config(Qwen3Config):
    model_type = "landmark_qwen3"


class LandmarkQwen3Model(LandmarkDecoder, Qwen3Model):
    config_class = LandmarkQwen3Config


class LandmarkQwen3ForCausalLM(LandmarkCausal, Qwen3ForCausalLM):
    config_class = LandmarkQwen3Config
    decoder = LandmarkQwen3Model


# The landmark classes of each model type that can become one.
FAMILIES: dict[str, tuple[type[Any], type[Any], type[Any]]] = {
    "llama": (LandmarkLlamaConfig, LandmarkLlamaModel, LandmarkLlamaForCausalLM),
    "mistral": (LandmarkMistralConfig, LandmarkMistralModel, LandmarkMistralForCausalLM),
    "qwen2": (LandmarkQwen2Config, LandmarkQwen2Model, LandmarkQwen2ForCausalLM),
    "qwen3": (LandmarkQwen3Config, LandmarkQwen3Model, LandmarkQwen3ForCausalLM),
}
_PLAIN: dict[str, tuple[type[Any], type[Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}


def register_families() -> None:
    """Make transformers' Auto classes know the landmark models. Again is no harm."""
    for config, decoder, causal in FAMILIES.values():
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, decoder, exist_ok=True)
        AutoModelForCausalLM.register(config, causal, exist_ok=True)


def is_landmark(values: Mapping[str, Any] | Any) -> bool:
    """Whether a configuration, or what a `config.json` holds, is a landmark model's."""
    kind = values.get("model_type") if isinstance(values, Mapping) else getattr(values, "model_type", None)
    return str(kind).startswith(_PREFIX)


def plain_classes(config: Any) -> tuple[type[Any], type[Any]]:
    """The configuration and the causal LM of the family that a landmark configuration is of."""
    return _PLAIN[config.model_type.removeprefix(_PREFIX)]
