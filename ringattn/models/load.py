"""Models of a run: a LLaMA or a hybrid from sizes, or a Hugging Face checkpoint folder.

Nothing is downloaded, no code of a folder's is run, and no pickle is opened.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from ringattn.models.hybrid import HybridConfig, HybridForCausalLM
from ringattn.models.landmark import is_landmark
from ringattn.planner.architecture import Architecture, read_config
from ringattn.settings.hybrid import HybridSettings
from ringattn.settings.rope import parse_rope_scaling, scaled_positions


def new_llama(architecture: Architecture, *, seed: int) -> PreTrainedModel:
    """A LLaMA with random fp32 weights that depend on `seed` alone.

    With `local_start` c, every channel of the query and key biases starts at c. Rotated to positions i and j they meet
    in a score of 2 c^2 / sqrt(D) * sum_k cos((i - j) theta_k) over the D / 2 frequencies theta_k, which falls off with
    distance: attention starts local. Without it attention over thousands of tokens starts as the mean of all of them,
    whose gradient says little, and the first hundred steps learn no more than which token follows which.
    """
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**_sizes(architecture)))
    _start_local(model, architecture)
    return model


def new_hybrid(architecture: Architecture, hybrid: HybridSettings, *, seed: int) -> PreTrainedModel:
    """A hybrid of a LLaMA of these sizes, with random fp32 weights that depend on `seed` alone.

    Raises:
        ValueError: sizes that the mixer can't have.
    """
    torch.manual_seed(seed)
    model = HybridForCausalLM(
        HybridConfig(
            **_sizes(architecture),
            mixer=hybrid.mixer,
            pattern=hybrid.listed_pattern(),
            linear_heads=hybrid.linear_heads,
            linear_key_dim=hybrid.linear_key_dim,
            linear_value_dim=hybrid.linear_value_dim,
            conv_width=hybrid.conv_width,
            state_route=hybrid.state_route,
            linear_kernel=hybrid.kernel,
            sliding_window=hybrid.sliding_window,
            rope_layers=hybrid.listed_rope_layers(),
        )
    )
    _start_local(model, architecture)
    return model


def _sizes(architecture: Architecture) -> dict[str, Any]:
    """The settings that a LLaMA's configuration and a hybrid's share."""
    return {
        "vocab_size": architecture.vocabulary,
        "hidden_size": architecture.hidden_size,
        "intermediate_size": architecture.intermediate_size,
        "num_hidden_layers": architecture.layers,
        "num_attention_heads": architecture.heads,
        "num_key_value_heads": architecture.key_value_heads,
        "head_dim": architecture.head_dim,
        "max_position_embeddings": architecture.max_positions,
        "rope_parameters": {"rope_type": "default", "rope_theta": architecture.rope_theta},
        "tie_word_embeddings": architecture.tie_embeddings,
        "attention_bias": architecture.attention_bias,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }


def _start_local(model: Any, architecture: Architecture) -> None:
    """The query and key biases of attending layers at `local_start` (see `new_llama`)."""
    if architecture.local_start:
        for layer in model.model.layers:
            attention = getattr(layer, "self_attn", None)
            for projection in () if attention is None else (attention.q_proj, attention.k_proj):
                torch.nn.init.constant_(projection.bias, architecture.local_start)


# While it loads, transformers replaces functions of torch for the whole process; of two threads the later one would
# keep the other's replacements for ever.
_LOADING = threading.Lock()


def load_model(
    folder: Path, *, rope_scaling: str | None = None, length: int | None = None, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """A causal language model from safetensors, its rotary positions stretched where asked for.

    rope_scaling: as `ringattn.settings.rope` reads it; length: the target where it names none.

    Raises:
        ValueError: the folder is no checkpoint, holds no safetensors or not all weights, or needs code of its own;
        the positions can't be stretched so.
    """
    values = read_config(folder)
    if not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"weights are read as safetensors, but {folder} has none: save them again with "
            "save_pretrained(folder, safe_serialization=True)."
        )
    if "quantization_config" in values:
        method = values["quantization_config"].get("quant_method", "its own method")
        raise ValueError(
            f"weights must be whole numbers of 16 bits or more, but those of {folder} are quantized ({method}): give "
            "the model as it was before."
        )
    with _said_of(folder):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if rope_scaling is not None:
        stretch_positions(config, rope_scaling, length=length)
    with _said_of(folder), _LOADING:
        model, found = cast(Any, AutoModelForCausalLM).from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=dtype,
            output_loading_info=True,
        )
    _check_landmark(folder, is_landmark(config), found)
    if found["missing_keys"] or found["mismatched_keys"]:
        wrong = sorted([*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])])
        raise ValueError(
            f"a checkpoint holds all weights of its model, but {len(wrong)} of {folder} are missing or of another "
            f"shape (the first is {wrong[0]}): copy the folder whole."
        )
    return cast(PreTrainedModel, model)


def _check_landmark(folder: Path, named: bool, found: Any) -> None:
    """ValueError where the weights are a landmark model's and config.json is not, or the other way round."""
    if named and _LANDMARK in found["missing_keys"]:
        raise ValueError(
            f"the config.json of {folder} is a landmark model's, but its weights have no landmark ({_LANDMARK}): make "
            "a landmark model of the plain one with `ringattn convert source=FOLDER out=NEW to=landmark`."
        )
    if not named and _LANDMARK in found["unexpected_keys"]:
        raise ValueError(
            f"the weights of {folder} are a landmark model's, but its config.json is a plain one's: copy the landmark "
            "model's config.json there, and make a plain model of it with `ringattn convert source=FOLDER out=NEW "
            "to=plain` if you want one."
        )


_LANDMARK = "model.landmark.weight"


def stretch_positions(config: Any, rope_scaling: str, *, length: int | None = None) -> None:
    """Set RoPE scaling in `config`, in transformers' own terms (`ringattn.settings.rope`).

    Raises:
        ValueError: an unknown kind; positions that can't be stretched so.
    """
    text = config.get_text_config()
    changes = scaled_positions(text.to_dict(), parse_rope_scaling(rope_scaling), length=length)
    for name, value in changes.items():
        setattr(text, name, value)


def stored_dtype(folder: Path) -> torch.dtype:
    """What the weights of a folder are stored in, the widest where there are several."""
    found = {torch.float16: False, torch.bfloat16: False, torch.float32: False, torch.float64: False}
    for path in sorted(folder.glob("*.safetensors")):
        with _said_of(folder), safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                named = _DTYPES.get(file.get_slice(name).get_dtype())
                if named is not None:
                    found[named] = True
    present = [dtype for dtype, there in found.items() if there]
    return present[-1] if present else torch.float32


_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}


@contextmanager
def _said_of(folder: Path) -> Iterator[None]:
    """transformers' own errors inside the `with` as one sentence about the folder."""
    try:
        yield
    except SafetensorError as error:
        raise ValueError(f"a safetensors file in {folder} is broken ({error}): copy or download it again.") from error
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"transformers can't load {folder} as a causal language model ({str(error).splitlines()[0]}): models that "
            "need code of their own are not run."
        ) from error
