"""GGUF into a Hugging Face folder, by transformers' own reader: weights dequantized to fp32, and the tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from ringattn.models.aside import written_aside
from ringattn.planner.gguf_header import read_header


def gguf_to_folder(path: Path, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write the model of a GGUF file to `folder`, which plain transformers loads. In fp32 nothing is rounded.

    Raises:
        ValueError: the file is cut short, or of an architecture that transformers does not read; gguf is missing.
        FileExistsError: the folder exists.
    """
    model, tokenizer = read_gguf(path, dtype=dtype)
    with written_aside(folder) as aside:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)


def read_gguf(path: Path, *, dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, Any]:
    """The model and the tokenizer of a GGUF file. Raises as `gguf_to_folder`."""
    kind = read_header(path).metadata.get("general.architecture")
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise ValueError("GGUF is read with the package gguf: pip install 'ringattn[gguf]'.") from None
    logging.disable_progress_bar()
    where = {"gguf_file": path.name, "local_files_only": True}
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(path.parent, dtype=dtype, trust_remote_code=False, **where)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, trust_remote_code=False, **where)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise ValueError(
            f"transformers can't read {path}, a GGUF file of the architecture {kind} "
            f"({str(error).splitlines()[0]}): give the model as safetensors."
        ) from error
    # What it was quantized by is gone with the quantization, but would keep transformers from saving it.
    del model.config.quantization_config
    model.hf_quantizer, model.is_quantized, model.quantization_method = None, False, None
    model.config._name_or_path = ""
    return model, tokenizer
