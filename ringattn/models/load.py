"""Models of a run: a LLaMA from sizes, or a local Hugging Face checkpoint folder. Nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from ringattn.planner.architecture import Architecture, read_config


def new_llama(architecture: Architecture, *, seed: int) -> PreTrainedModel:
    """A LLaMA with random fp32 weights that depend on `seed` alone.

    With `local_start` c, every channel of the query and key biases starts at c. Rotated to positions i and j they meet
    in a score of 2 c^2 / sqrt(D) * sum_k cos((i - j) theta_k) over the D / 2 frequencies theta_k, which falls off with
    distance: attention starts local. Without it attention over thousands of tokens starts as the mean of all of them,
    whose gradient says little, and the first hundred steps learn no more than which token follows which.
    """
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=architecture.vocabulary,
            hidden_size=architecture.hidden_size,
            intermediate_size=architecture.intermediate_size,
            num_hidden_layers=architecture.layers,
            num_attention_heads=architecture.heads,
            num_key_value_heads=architecture.key_value_heads,
            head_dim=architecture.head_dim,
            max_position_embeddings=architecture.max_positions,
            rope_parameters={"rope_type": "default", "rope_theta": architecture.rope_theta},
            tie_word_embeddings=architecture.tie_embeddings,
            attention_bias=architecture.attention_bias,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    if architecture.local_start:
        for layer in model.model.layers:
            for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
                torch.nn.init.constant_(projection.bias, architecture.local_start)
    return model


def load_model(folder: Path, *, rope_scaling: str | None = None, rope_factor: float = 1.0) -> PreTrainedModel:
    """A causal language model in fp32 from safetensors, its rotary positions stretched where asked for.

    Raises:
        ValueError: the folder is no checkpoint, or holds no safetensors.
    """
    read_config(folder)
    if not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"weights are read as safetensors, but {folder} has none: save them again with "
            "save_pretrained(folder, safe_serialization=True)."
        )
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if rope_scaling is not None:
        stretch_positions(config, kind=rope_scaling, factor=rope_factor)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, config=config, local_files_only=True, use_safetensors=True, dtype=torch.float32
    )
    return model


def stretch_positions(config: Any, *, kind: str, factor: float) -> None:
    """Set RoPE scaling: `linear` (S. Chen et al., 2023) or `yarn` (B. Peng et al., 2023)."""
    if "rope_theta" not in (config.rope_parameters or {}):
        raise ValueError(
            "model.rope_scaling stretches models with one rotary setting for all layers, got "
            f"{config.model_type}: drop model.rope_scaling, or save the model with its own rope_parameters."
        )
    trained = config.max_position_embeddings
    theta = config.rope_parameters["rope_theta"]
    config.rope_parameters = {
        "rope_type": kind,
        "rope_theta": theta,
        "factor": factor,
        "original_max_position_embeddings": trained,
    }
    config.max_position_embeddings = int(trained * factor)
