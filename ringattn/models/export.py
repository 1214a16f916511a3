"""A model as a Hugging Face folder: safetensors, configuration, generation settings; plain `from_pretrained` loads
it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor


def export_model(model: Any, tensors: Mapping[str, Tensor], folder: Path, *, dtype: torch.dtype) -> None:
    """Write the Hugging Face model `model` with the weights `tensors` instead of its own, as `dtype`, into `folder`.

    tensors: by the model's own names, whole, on the CPU; one tensor under two names (tied weights) is written once.
    """
    rounded: dict[int, Tensor] = {}
    for tensor in tensors.values():
        if id(tensor) not in rounded:
            rounded[id(tensor)] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    tied = set(getattr(model, "all_tied_weights_keys", None) or ()) if model.config.tie_word_embeddings else set()
    kept = {name: rounded[id(tensor)].contiguous() for name, tensor in tensors.items() if name not in tied}
    save_torch_state_dict(kept, folder, metadata={"format": "pt"})
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = dtype
    config.save_pretrained(folder)
    if getattr(model, "generation_config", None) is not None and model.can_generate():
        model.generation_config.save_pretrained(folder)
