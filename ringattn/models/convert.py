"""Checkpoints of other kinds into a Hugging Face folder: GGUF, LoRA adapters, DeepSpeed's, other dtypes and file sizes;
and, with `hybrid`, of a LLaMA-like model into a hybrid one.

What a source is shows in its files (`identify`); `convert` then makes one model of it in memory and saves that.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from ringattn.data.tokenizer import copy_tokenizer
from ringattn.models.aside import written_aside
from ringattn.models.gguf import read_gguf
from ringattn.models.hybrid.convert import Recipe, to_hybrid
from ringattn.models.landmark import check_tokenizer, from_landmark, to_landmark
from ringattn.models.load import load_model, stored_dtype
from ringattn.models.source import PACKAGE, locate, packaged
from ringattn.models.zero import zero_folder, zero_weights
from ringattn.planner.architecture import read_config
from ringattn.settings.hybrid import layer_kinds


class Kind(Enum):
    """What a source is; the value is what a message calls it."""

    GGUF = "a GGUF file"
    ADAPTER = "a LoRA adapter (PEFT)"
    ZERO = "a DeepSpeed checkpoint"
    FOLDER = "a Hugging Face folder"


@dataclass(frozen=True)
class Source:
    """A checkpoint on this machine. run: the ringattn run that it is the newest of."""

    kind: Kind
    path: Path
    run: Path | None = None

    def describe(self) -> str:
        """One line."""
        inside = "" if self.run is None else f", the newest of the run {self.run}"
        return f"{self.path} is {self.kind.value}{inside}"


@dataclass(frozen=True)
class Written:
    """What a conversion wrote. weights: their number. files: of weights. tokenizer: names of its files. hybrid: what
    became of the layers, where the model was made a hybrid."""

    weights: int
    dtype: torch.dtype
    files: int
    tokenizer: list[str]
    hybrid: str | None = None


def identify(word: str) -> Source:
    """What `word`, a path, `package:NAME` or a name on the hub, holds.

    Raises:
        ValueError: it is none of what can be converted.
    """
    path = Path(word).expanduser().absolute()
    if not path.exists():
        if word.startswith(PACKAGE):
            return Source(Kind.GGUF, packaged(word.removeprefix(PACKAGE)))
        return Source(Kind.FOLDER, locate(word))
    run = None
    if (path / "config.sha256").is_file():
        run, path = path, (path / "checkpoints" / "latest").resolve()
        if not path.exists():
            raise ValueError(f"the run {run} has no checkpoint yet: let it reach checkpoint.every, or its end.")
    if path.is_file():
        if path.suffix != ".gguf":
            raise ValueError(f"a file to convert is a .gguf, got {path}: give the folder that it lies in.")
        return Source(Kind.GGUF, path)
    if (path / "adapter_config.json").is_file():
        return Source(Kind.ADAPTER, path, run)
    if zero_folder(path) is not None:
        return Source(Kind.ZERO, path, run)
    if (path / "config.json").is_file():
        return Source(Kind.FOLDER, path, run)
    raise ValueError(
        f"{path} is no checkpoint: it has neither config.json (Hugging Face), adapter_config.json (PEFT), "
        "*_model_states.pt (DeepSpeed) nor config.sha256 (a run of ringattn). Give one that has."
    )


def convert(
    source: Source,
    out: Path,
    *,
    base: str | None = None,
    dtype: torch.dtype | None = None,
    shard_size: str = "5GB",
    to: str | None = None,
    landmark_block: int = 63,
    hybrid: Recipe | None = None,
) -> Written:
    """Write the model of `source` to the new folder `out`, which plain transformers loads.

    base: the model that an adapter changes, or whose config.json and tokenizer a DeepSpeed checkpoint goes with.
    dtype: of the weights; as they are stored unless given (fp32 of GGUF and of DeepSpeed's, which are its master copy).
    shard_size: of one file of weights, as transformers reads it.
    to: `landmark` for a landmark model with blocks of `landmark_block` tokens, `plain` for one without landmarks; the
    kind that it is unless given. hybrid: how to make a hybrid of it instead.

    Raises:
        ValueError: `out` exists; the model is of the kind already, or can't become one; the source is broken or lacks
        its base; a weight does not fit into `dtype`.
    """
    if out.exists():
        raise ValueError(f"convert never overwrites, but {out} exists: name another folder with out=...")
    tokenizer = None
    home = source.path
    if hybrid is not None and source.kind is Kind.FOLDER:
        # Before gigabytes are read.
        layer_kinds(hybrid.pattern, int(read_config(home).get("num_hidden_layers", 0)))
    if source.kind is Kind.FOLDER:
        model = load_model(home, dtype=dtype or stored_dtype(home))
    elif source.kind is Kind.GGUF:
        model, tokenizer = read_gguf(home)
        _cast(model, dtype or torch.float32)
    elif source.kind is Kind.ADAPTER:
        model, home = _merged(source.path, base, dtype)
    else:
        model, home = _of_zero(source, base, dtype)
    told = None
    if to == "landmark":
        if tokenizer is None:
            check_tokenizer(home, model.config.vocab_size)
        model = to_landmark(model, landmark_block)
    elif to == "plain":
        model = from_landmark(model)
    elif hybrid is not None:
        converted = to_hybrid(model, hybrid)
        model, told = converted.model, converted.describe()
    try:
        with written_aside(out) as aside:
            _save(model, aside, shard_size)
            if tokenizer is None:
                names = copy_tokenizer(home, aside)
            else:
                names = sorted({Path(name).name for name in tokenizer.save_pretrained(aside)})
            return _written(model, aside, names, told)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{out} could not be written ({error}): free some space, or choose another disk.") from error


def _merged(folder: Path, base: str | None, dtype: torch.dtype | None) -> tuple[PreTrainedModel, Path]:
    """The base model with the adapter's changes added, in fp32 before they are rounded; and the tokenizer's folder."""
    try:
        from peft import PeftConfig, PeftModel
    except ImportError:
        raise ValueError("LoRA adapters are read with the package peft: pip install 'ringattn[peft]'.") from None
    if not (folder / "adapter_model.safetensors").is_file():
        raise ValueError(
            f"weights are read as safetensors, but the adapter {folder} has no adapter_model.safetensors: save it "
            "again with save_pretrained(folder, safe_serialization=True)."
        )
    named = PeftConfig.from_pretrained(str(folder)).base_model_name_or_path
    if base is None and not (named and Path(named).is_dir()):
        raise ValueError(
            f"an adapter changes a base model, and that of {folder} is {named or 'not named'}, which is no folder "
            "here: give it with base=FOLDER (or base=NAME, to download it from the Hugging Face hub)."
        )
    home = locate(str(base or named))
    model = load_model(home)
    try:
        merged = PeftModel.from_pretrained(model, str(folder)).merge_and_unload(safe_merge=True)
    except (RuntimeError, ValueError, KeyError) as error:
        raise ValueError(
            f"the adapter {folder} does not fit the base {home} ({str(error).splitlines()[0]}): give the model that "
            "it was trained on with base=..."
        ) from error
    _cast(merged, dtype or stored_dtype(home))
    return merged, folder if any(folder.glob("tokenizer*")) else home


def _of_zero(source: Source, base: str | None, dtype: torch.dtype | None) -> tuple[PreTrainedModel, Path]:
    """The model of a DeepSpeed checkpoint, under the base's config.json; and the tokenizer's folder."""
    if base is not None:
        home = locate(base)
    else:
        around = [source.path, source.path.parent, source.path.parent.parent]
        if source.run is not None:
            trained = yaml.safe_load((source.run / "config.yaml").read_text(encoding="utf-8"))["model"]["path"]
            around += [Path(trained)] if trained else []
        homes = [folder for folder in around if (folder / "config.json").is_file()]
        if not homes:
            raise ValueError(
                f"a DeepSpeed checkpoint holds weights alone, and no config.json lies beside {source.path}: give the "
                "model that was trained with base=FOLDER."
            )
        home = homes[0]
    read_config(home)
    config = AutoConfig.from_pretrained(home, local_files_only=True, trust_remote_code=False)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    weights = {name.removeprefix("module."): tensor for name, tensor in zero_weights(source.path).items()}
    found = model.load_state_dict(weights, strict=False)
    tied = set(getattr(model, "all_tied_weights_keys", {}) or {})
    missing = sorted(set(found.missing_keys) - tied)
    if missing or found.unexpected_keys:
        first = missing[0] if missing else found.unexpected_keys[0]
        raise ValueError(
            f"the checkpoint {source.path} and the base {home} must be of one model, but {first} is only in "
            f"{'the base' if missing else 'the checkpoint'}: give the model that was trained with base=FOLDER (of a "
            "LoRA run, convert the adapter; of a landmark model, convert the base with to=landmark first)."
        )
    model.tie_weights()
    _cast(model, dtype or torch.float32)
    return model, home


def _cast(model: PreTrainedModel, dtype: torch.dtype) -> None:
    cast: Any = model
    cast.to(dtype)


def _save(model: PreTrainedModel, folder: Path, shard_size: str) -> None:
    for name, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise ValueError(
                f"weights must be finite numbers, but {name} has others in {model.dtype}: choose dtype=bfloat16 or "
                "float32, whose range is wider, or look at the source."
            )
    model.save_pretrained(folder, max_shard_size=shard_size)


def _written(model: PreTrainedModel, folder: Path, tokenizer: list[str], hybrid: str | None) -> Written:
    weights = sum(parameter.numel() for parameter in model.parameters())
    return Written(weights, model.dtype, len(list(folder.glob("*.safetensors"))), tokenizer, hybrid)
