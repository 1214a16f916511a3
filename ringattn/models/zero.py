"""Weights out of DeepSpeed's ZeRO checkpoints, whose files hold shards of flat fp32 buffers.

DeepSpeed's own `zero_to_fp32` puts them together. It opens the files as pickles that may run code, so torch is told to
read weights only, and to let in the few classes by name that DeepSpeed writes beside the tensors.
"""

from __future__ import annotations

import importlib
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Plain records and enums of DeepSpeed's, which do nothing when they are read.
_RECORDS = (
    ("deepspeed.runtime.fp16.loss_scaler", "LossScaler"),
    ("deepspeed.runtime.fp16.loss_scaler", "DynamicLossScaler"),
    ("deepspeed.runtime.zero.config", "ZeroStageEnum"),
    ("deepspeed.utils.tensor_fragment", "fragment_address"),
)
_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


def zero_folder(path: Path) -> tuple[Path, str] | None:
    """(the folder of tags, the tag) of the DeepSpeed checkpoint at `path`, which is either; or None."""
    if any(path.glob("*_model_states.pt")):
        return path.parent, path.name
    latest = path / "latest"
    if latest.is_file():
        tag = latest.read_text(encoding="utf-8").strip()
        if tag and any((path / tag).glob("*_model_states.pt")):
            return path, tag
    return None


def zero_weights(path: Path) -> dict[str, Tensor]:
    """All weights by name, in fp32; frozen and tied ones too.

    Raises:
        ValueError: deepspeed is not installed; a file is missing, broken or holds more than weights.
    """
    found = zero_folder(path)
    assert found is not None
    folder, tag = found
    try:
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint as put_together
    except ImportError:
        raise ValueError(
            "DeepSpeed checkpoints are read with the package deepspeed: pip install 'ringattn[deepspeed]'."
        ) from None
    try:
        with _weights_only():
            weights: dict[str, Tensor] = put_together(str(folder), tag=tag)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"a checkpoint holds weights alone, but the files of {folder / tag} hold objects that could run code "
            f"({str(error).splitlines()[-1]}): save it again, or use its own zero_to_fp32.py."
        ) from error
    except (OSError, KeyError, ValueError, RuntimeError, NotImplementedError) as error:
        raise ValueError(
            f"DeepSpeed can't put {folder / tag} together ({str(error).splitlines()[0]}): copy the checkpoint whole, "
            "with the files of all ranks."
        ) from error
    return {name: weight.contiguous() for name, weight in weights.items()}


@contextmanager
def _weights_only() -> Iterator[None]:
    """torch.load reads weights only, whatever its caller asks, but for the records above."""
    before = os.environ.get(_FORCE)
    records: list[Any] = []
    for module, name in _RECORDS:
        found = getattr(importlib.import_module(module), name, None)
        if found is not None:
            records.append(found)
    os.environ[_FORCE] = "1"
    try:
        with torch.serialization.safe_globals(records):
            yield
    finally:
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before
