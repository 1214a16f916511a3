"""Low-rank adapters through peft (LoRA, E. Hu et al., arXiv 2106.09685), and the merged model that they amount to."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ringattn.settings.adapter import AdapterConfig

NAME = "default"
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj")


def adapt(model: Any, config: AdapterConfig) -> Any:
    """The model with adapters, of which alone, with what `train_embeddings` and `train_norms` name, is trained. To be
    parallelized afterwards.

    Raises:
        ValueError: peft is not installed; a target is not in the model.
    """
    try:
        from peft import LoraConfig, TaskType, get_peft_model
    except ImportError:
        raise ValueError(
            "adapter=lora needs the package peft, which is not installed: pip install 'ringattn[peft]', or write "
            "adapter=none."
        ) from None
    # A landmark that stays as it was made chooses nothing.
    landmark = ["landmark"] if getattr(model.config, "landmark_block", None) is not None else []
    whole = [
        *landmark,
        *(_norms(model) if config.train_norms else ()),
        *(_embeddings(model) if config.train_embeddings else ()),
    ]
    tied = bool(getattr(model.config, "tie_word_embeddings", False)) and config.train_embeddings
    settings = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # peft takes floats too.
        lora_dropout=config.dropout,
        target_modules=_targets(model, config.targets),
        modules_to_save=whole or None,
        ensure_weight_tying=tied,
    )
    with warnings.catch_warnings():
        # peft asks transformers 5.23 by a name that version 6 will not have.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        return get_peft_model(model, settings, adapter_name=NAME)


def is_adapted(model: nn.Module) -> bool:
    """Whether `adapt` made the model."""
    return hasattr(model, "peft_config")


def merged_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the plain model, by its own names, with adapters added in: W + scaling * B A.

    tensors: all that the adapted model saves, by name, whole.
    """
    scaling = {name: float(m.scaling[NAME]) for name, m in model.named_modules() if hasattr(m, "lora_A")}
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if ".lora_" in name or ".original_module." in name:
            continue
        module, _, _ = name.rpartition(".base_layer.")
        if module and name.endswith(".weight"):
            a, b = (tensors[f"{module}.lora_{side}.{NAME}.weight"] for side in "AB")
            wide = torch.promote_types(tensor.dtype, torch.float32)
            tensor = (tensor.to(wide) + scaling[module] * (b.to(wide) @ a.to(wide))).to(tensor.dtype)
        plain = name.replace(".base_layer.", ".").replace(f".modules_to_save.{NAME}.", ".")
        found[plain.removeprefix("base_model.model.")] = tensor
    return found


def _targets(model: nn.Module, wanted: str) -> list[str]:
    if wanted == "linear":
        head = model.get_output_embeddings()  # type: ignore[operator]
        linear = (n for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head)
        return sorted({name.rpartition(".")[2] for name in linear})
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    if wanted == "attention":
        return [name for name in _ATTENTION if name in names]
    targets = [name.strip() for name in wanted.split(",") if name.strip()]
    missing = [name for name in targets if name not in names]
    if missing:
        linear_names = sorted({n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, nn.Linear)})
        raise ValueError(
            f"adapter.targets must name modules of the model, and it has no {missing[0]}: choose from "
            f"{', '.join(linear_names)}, or write adapter.targets=linear."
        )
    return targets


def _norms(model: nn.Module) -> list[str]:
    return sorted({name.rpartition(".")[2] for name, m in model.named_modules() if type(m).__name__.endswith("Norm")})


def _embeddings(model: Any) -> list[str]:
    inside = model.get_input_embeddings()
    return [name.rpartition(".")[2] for name, module in model.named_modules() if module is inside]
