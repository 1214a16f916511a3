"""Small causal LMs with random weights in fp64, one of each family, and what they compute on one process.

Their attention is the reference of `reference.py`, registered with transformers as "reference", and norms and the loss
work in fp64 (transformers casts both to fp32), so that results can be held to 1e-9.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import reference
import torch
import transformers
from torch import Tensor, nn

VOCABULARY = 61
WINDOW = 9

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_MIXED = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": WINDOW}

# transformers' class prefix, and what makes each family what it is here: windows, caps, sinks.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "qwen2": ("Qwen2", {**_MIXED, "use_sliding_window": True}),
    "qwen3": ("Qwen3", {**_MIXED, "use_sliding_window": True}),
    "mistral": ("Mistral", {"sliding_window": WINDOW}),
    "gemma2": ("Gemma2", {**_MIXED, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 8}),
    "gemma3": ("Gemma3", {**_MIXED, "query_pre_attn_scalar": 8}),
    "gpt_oss": (
        "GptOss",
        {**_MIXED, "num_local_experts": 2, "num_experts_per_tok": 2, "experts_implementation": "eager"},
    ),
}


def make_config(family: str, **changes: Any) -> Any:
    prefix, own = FAMILIES[family]
    name = f"{prefix}TextConfig" if family == "gemma3" else f"{prefix}Config"
    return getattr(transformers, name)(**{**_SIZES, **own, **changes})


def make_model(family: str, *, attention: str = "reference", **changes: Any) -> Any:
    """In fp64, weights of every kind far from zero: norms and biases too."""
    transformers.AttentionInterface.register("reference", _attend)
    model = getattr(transformers, f"{FAMILIES[family][0]}ForCausalLM")(make_config(family, **changes)).double()
    model.set_attn_implementation(attention)
    return far_from_zero(model)


def far_from_zero(model: Any) -> Any:
    """An fp64 model with norms that compute in fp64 and random weights of every kind, set to train."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child).__name__.endswith("RMSNorm"):
                setattr(module, name, _ExactNorm(child))
    random = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
            parameter.copy_(0.3 * noise if parameter.dim() > 1 else parameter + 0.3 * noise)
    return model.train()


def make_tokens(batch: int, length: int, *, seed: int = 0) -> Tensor:
    """int64 [batch, length]."""
    return torch.randint(3, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


@dataclass
class Step:
    """One forward and backward: the loss, the gradient of each parameter by name, logits [B, L, vocabulary]."""

    loss: Tensor
    gradients: dict[str, Tensor]
    logits: Tensor


def plain_step(model: Any, tokens: Tensor, labels: Tensor, documents: tuple[int, ...] | None = None) -> Step:
    """Each document read by itself; the loss is the mean over all targets."""
    bounds = documents or (0, tokens.shape[1])
    total, targets, logits = torch.zeros((), dtype=torch.float64), 0, []
    for start, stop in pairwise(bounds):
        if start == stop:
            continue
        part = model(input_ids=tokens[:, start:stop], use_cache=False).logits
        predicted, wanted = part[:, :-1].flatten(0, 1), labels[:, start + 1 : stop].flatten()
        total = total + nn.functional.cross_entropy(predicted, wanted, reduction="sum")
        targets += int((wanted != -100).sum())
        logits.append(part)
    loss = total / targets
    loss.backward()
    return Step(loss.detach(), gradients_of(model), torch.cat(logits, dim=1).detach())


def gradients_of(model: Any) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_same_step(found: Step, expected: Step, *, tolerance: float) -> None:
    """Loss, logits and each gradient, relative to the largest entry of each."""
    assert found.gradients.keys() == expected.gradients.keys()
    pairs = {"the loss": (found.loss, expected.loss), "logits": (found.logits, expected.logits)}
    pairs.update({name: (found.gradients[name], expected.gradients[name]) for name in expected.gradients})
    for name, (one, other) in pairs.items():
        assert one.shape == other.shape, name
        error = float((one - other).abs().max() / other.abs().max())
        assert error <= tolerance, f"{name} is off by {error:.1e}"


class _ExactNorm(nn.Module):
    """Another RMSNorm in the precision of its input; Gemma's counts its weights from one."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight = norm.weight
        self.epsilon = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
        self.offset = 1.0 if type(norm).__name__.startswith("Gemma") else 0.0

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon) * (self.offset + self.weight)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    length = query.shape[2]
    out = reference.attention(
        *(x.transpose(1, 2) for x in (query, key, value)),
        _mask(length, options.get("sliding_window")),
        scale=options["scaling"],
        softcap=options.get("softcap"),
        sinks=options.get("s_aux"),
    )
    return out, None


@cache
def _mask(length: int, window: int | None) -> Tensor:
    return reference.dense_mask(length, length, window=window)
