"""A causal LM into a landmark model and back, in memory: its weights are taken over, none is copied."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedModel

from ringattn.models.attachment import attachment_of
from ringattn.models.landmark.decoder import check_block
from ringattn.models.landmark.families import FAMILIES, is_landmark, plain_classes
from ringattn.models.support import text_model
from ringattn.settings.model import check_landmark_block


def to_landmark(model: nn.Module, block: int = 63) -> Any:
    """`model`, a LLaMA-like causal LM, as a landmark model with `block` ordinary tokens to a block.

    The new model has the weights of the old one, which is used up, and one embedding row more: the landmark's, the mean
    of the others. Data, labels and logits stay as they are (see `ringattn.models.landmark.decoder`); what attention
    computes does not, so that the model must be trained.

    Raises:
        ValueError: no such family, a sliding window, adapters, or a model that is parallelized or a landmark model
        already; a block without a token.
    """
    check_block(block)
    inner = _own(model, "to_landmark")
    kind = inner.config.model_type
    if is_landmark(inner.config):
        raise ValueError(
            f"the model is a landmark model already, with blocks of {inner.config.landmark_block} tokens: use it as it "
            "is, or make a plain one of it first (from_landmark, or `ringattn convert` with to=plain)."
        )
    check_landmark_block(inner.config.to_dict(), block)
    if _has_window(inner.config):
        raise ValueError(
            f"blocks are seen from anywhere behind them, but {type(inner).__name__} has a sliding window of "
            f"{inner.config.sliding_window}: set config.sliding_window to None (use_sliding_window to False) first, or "
            "use another model."
        )
    config_class, _, model_class = FAMILIES[kind]
    values = _values(inner.config) | {"landmark_block": block}
    made = _around(inner, config_class(**values), model_class)
    weight = inner.model.embed_tokens.weight
    wide = torch.promote_types(weight.dtype, torch.float32)
    row = nn.Embedding(1, weight.shape[1], dtype=weight.dtype, device=weight.device)
    with torch.no_grad():
        row.weight.copy_(weight.mean(dim=0, keepdim=True, dtype=wide))
    made.model.landmark = row
    return made


def with_blocks(model: Any, block: int | None) -> Any:
    """`model` as a landmark model with blocks of `block` tokens; as it is where None, or where it is one already.

    Raises:
        ValueError: as `to_landmark`; it is a landmark model with other blocks.
    """
    if block is None:
        return model
    if not is_landmark(model.config):
        return to_landmark(model, block)
    check_landmark_block(model.config.to_dict(), block)
    return model


def check_tokenizer(folder: Path, vocabulary: int) -> None:
    """ValueError where the tokenizer in `folder` uses the landmark's id, the first one behind the vocabulary."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return
    ids = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True).values()
    if max(ids, default=0) >= vocabulary:
        raise ValueError(
            f"the landmark's id is {vocabulary}, the first one without a row in the embedding, but the tokenizer in "
            f"{folder} uses ids up to {max(ids)}: give the embedding rows for them first (resize_token_embeddings)."
        )


def from_landmark(model: nn.Module) -> Any:
    """The plain causal LM with the weights of a landmark model, which is used up; the landmark's row is dropped.

    Raises:
        ValueError: it is no landmark model, or is parallelized or adapted.
    """
    inner = _own(model, "from_landmark")
    if not is_landmark(inner.config):
        raise ValueError(f"{type(inner).__name__} is no landmark model: use it as it is.")
    config_class, model_class = plain_classes(inner.config)
    values = _values(inner.config)
    del values["landmark_block"]
    made = _around(inner, config_class(**values), model_class)
    made.set_attn_implementation("sdpa")
    return made


def _own(model: nn.Module, name: str) -> Any:
    inner = text_model(model)
    if inner is not model:
        raise ValueError(f"{name} takes a model without adapters, got {type(model).__name__}: merge them first, or "
                         "convert first and adapt afterwards.")  # fmt: skip
    if attachment_of(inner) is not None:
        raise ValueError(f"{name} takes a model that is not parallelized yet: convert first, and parallelize then.")
    return inner


def _values(config: Any) -> dict[str, Any]:
    values: dict[str, Any] = copy.deepcopy(config.to_dict())
    for name in ("model_type", "architectures", "transformers_version", "_name_or_path"):
        values.pop(name, None)
    return values


def _around(old: Any, config: Any, model_class: type[Any]) -> PreTrainedModel:
    """A `model_class` with the modules of `old` in the place of its own, which never had memory."""
    config.dtype = old.dtype
    with torch.device("meta"):
        made = model_class(config)
    for name, child in old.model.named_children():
        if name in dict(made.model.named_children()):
            setattr(made.model, name, child)
    made.lm_head = old.lm_head
    for module in made.modules():
        if hasattr(module, "config"):
            module.config = made.config
    made.generation_config = old.generation_config
    made.train(old.training)
    return made


def _has_window(config: Any) -> bool:
    types = getattr(config, "layer_types", None)
    if types is not None:
        return "sliding_attention" in types
    return getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
