"""Checkpoint folders to evaluate: a random LLaMA with a tokenizer, and one built by hand that can do recall."""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ringattn.data.tokenizer import save_tokenizer, train_bpe
from ringattn.models.load import new_llama
from ringattn.planner.architecture import Architecture

SIZES = Architecture(
    vocabulary=400,
    hidden_size=32,
    intermediate_size=48,
    layers=2,
    heads=4,
    key_value_heads=2,
    head_dim=8,
    max_positions=512,
)

TEXT = "The grass is green. The sky is blue. And God saw the light, that it was good: 12 of 345 and 67890 more.\n" * 60


def random_model(folder: Path) -> Path:
    """Weights that say something, and a byte-level tokenizer."""
    model = new_llama(SIZES, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0 if parameter.dim() > 1 else 1.0)
    model.save_pretrained(folder)
    save_tokenizer(train_bpe([TEXT], SIZES.vocabulary).tokenizer, folder)
    return folder


def recall_model(folder: Path, *, tokens: int = 48) -> Path:
    """An induction head in two layers (C. Olsson et al., 2022), set by hand; no tokenizer.

    The state has three parts of one-hot codes: the token, the token before (layer 1), and the guess (layer 2), which
    the head reads. Layer 1 attends one place back, by biases alone, through RoPE's fast channels; layer 2 looks for a
    token before that equals the token here, through channels so slow that they hardly turn.
    """
    head_dim = 128
    config = LlamaConfig(
        vocab_size=tokens,
        hidden_size=3 * tokens,
        intermediate_size=4,
        num_hidden_layers=2,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=head_dim,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 1e12},
        attention_bias=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    model = LlamaForCausalLM(config)
    half, one = head_dim // 2, torch.eye(tokens)
    here, before, guess = (slice(part * tokens, (part + 1) * tokens) for part in range(3))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        model.model.embed_tokens.weight[:, here] = one
        first, second = (layer.self_attn for layer in model.model.layers)
        fast = torch.arange(16)
        angle = 1e12 ** (-fast / half)
        # Turned back by one place, the query meets the key of the place before without an angle between them.
        first.q_proj.bias[fast], first.q_proj.bias[half + fast] = 30 * torch.cos(angle), -30 * torch.sin(angle)
        first.k_proj.bias[fast] = 10.0
        first.v_proj.weight[:tokens, here] = one
        first.o_proj.weight[before, :tokens] = one
        slow = torch.cat([torch.arange(40, 64), half + torch.arange(40, 64)])[:tokens]
        second.q_proj.weight[slow, here] = 6 * one
        second.k_proj.weight[slow, before] = 6 * one
        # The first token has none before it and takes itself for that: half of the match is taken back.
        second.k_proj.weight[slow, here] = -3 * one
        second.v_proj.weight[:tokens, here] = one
        second.o_proj.weight[guess, :tokens] = one
        model.lm_head.weight[:, guess] = one
    model.save_pretrained(folder)
    return folder
