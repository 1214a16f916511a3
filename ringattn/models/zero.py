"""Weights out of DeepSpeed's ZeRO checkpoints, whose files hold shards of flat fp32 buffers.

DeepSpeed's own `zero_to_fp32` puts them together. It opens the files as pickles that may run code, so torch is told to
read weights only, and to let in the few classes by name that DeepSpeed writes beside the tensors.
"""

from __future__ import annotations

import importlib
import io
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
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
        # It says on stdout what it does.
        with _weights_only(), redirect_stdout(io.StringIO()):
            weights: dict[str, Tensor] = put_together(str(folder), tag=tag)
            for name, weight in _whole_weights(folder / tag).items():
                weights.setdefault(name, weight.float())
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


def _whole_weights(folder: Path) -> dict[str, Tensor]:
    """What stages 1 and 2 save whole, in the dtype of the computation: at stage 1, frozen weights are here alone."""
    path = folder / "mp_rank_00_model_states.pt"
    if not path.is_file():
        return {}
    module = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["module"]
    return {name: value for name, value in module.items() if isinstance(value, Tensor)}


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
