"""The attention function that parallelized models call, under a name of its own in transformers' registry.

transformers asks `AttentionInterface` for the function that a model's configuration names, and builds no mask for a
name it does not know. What the masks would have said arrives as arguments instead: causality as an attribute of the
attention module, the window as `sliding_window`, packed documents and the global length from the model's call.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from ringattn.models.attachment import attachment_of
from ringattn.models.cache import ShardedCache

NAME = "ringattn"


class Retriever(Protocol):
    """Attention of a landmark model over its window and the blocks that it retrieves."""

    def attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *, scale: float | None) -> Tensor:
        """query: [B, Hq, n, D]; key, value: [B, Hkv, n, D], without positions. Returns [B, n, Hq, D]."""


def register() -> None:
    """Put `attend` into transformers' registry as "ringattn"; no other name is touched."""
    AttentionInterface.register(NAME, attend)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    is_causal: bool | None = None,
    length: int | None = None,
    documents: tuple[int, ...] | None = None,
    landmark_block: int | None = None,
    shards: ShardedCache | None = None,
    retrieval: Retriever | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Attention of this rank's queries over the keys of all ranks, in the form that transformers expects.

    query: [B, Hq, n, D]; key, value: [B, Hkv, n, D], this rank's shards. Returns ([B, n, Hq, D], None).
    length, documents: what the hooks of `ringattn.models.inputs` gave to the model's call.
    landmark_block: of a landmark model, whose decoder gives it; length and documents are with landmarks then.
    s_aux: [Hq], attention sinks, as gpt-oss passes them.
    shards: where generation keeps keys and values; while it decodes, the query is one token's, on every rank.
    retrieval: what answers the queries of a landmark model that retrieves blocks; they are the same on every rank.
    """
    attachment = attachment_of(module)
    if attachment is None:
        raise ValueError(
            f'the attention implementation is "{NAME}", but this {type(module).__name__} is not part of a '
            "parallelized model: call ringattn.parallelize(model, sp), or give the model another "
            "implementation with model.set_attn_implementation"
        )
    if retrieval is not None:
        return retrieval.attend(module, query, key, value, scale=scaling), None
    _check(module, attention_mask, dropout, sliding_window, length, rest)
    attachment.attended = True
    query, key, value = of_autocast(query, key, value)
    if shards is not None and shards.decoding:
        return shards.attend(
            _layer(module), query, key, value, window=sliding_window, scale=scaling, softcap=softcap, sinks=s_aux
        ), None
    if shards is not None:
        assert length is not None
        shards.keep(_layer(module), key, value, length=length, window=sliding_window)
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    out = attachment.sp.attention(
        query,
        key,
        value,
        causal=getattr(module, "is_causal", True) if is_causal is None else is_causal,
        window=sliding_window,
        documents=documents,
        scale=scaling,
        softcap=softcap,
        sinks=s_aux,
        length=length,
        landmark_block=landmark_block,
    )
    return out, None


def of_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Under autocast rotary embeddings return fp32 while the values are narrow: all become the type that torch's own
    attention would cast them to."""
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return tensors
    return tuple(x.to(torch.get_autocast_dtype(kind)) for x in tensors)


def _check(
    module: nn.Module,
    attention_mask: Tensor | None,
    dropout: float,
    sliding_window: int | None,
    length: int | None,
    rest: dict[str, Any],
) -> None:
    name = type(module).__name__
    if attention_mask is not None:
        raise ValueError(
            f"{name} adds a mask or a bias to its scores, which parallelized attention does not take: "
            "use a model whose positions are rotary"
        )
    for extra in ("position_bias", "head_mask", "alibi"):
        if rest.get(extra) is not None:
            raise ValueError(f"{name} passes {extra}, which parallelized attention does not take: use another model")
    if dropout > 0:
        raise ValueError(
            f"dropout inside attention is not supported, got {dropout} in {name}: "
            "set model.config.attention_dropout to 0 before the model is made"
        )
    if sliding_window is None and _layer_type(module) == "sliding_attention":
        raise ValueError(
            f"layer {getattr(module, 'layer_idx', '?')} has a sliding window, but {name} does not pass it on to its "
            "attention function: this model can't be parallelized"
        )
    if length is None:
        raise ValueError(
            f"the global length of the sequence did not reach {name}: this model drops the keyword arguments of its "
            "call, and can't be parallelized"
        )


def _layer(module: nn.Module) -> int:
    index = getattr(module, "layer_idx", None)
    if not isinstance(index, int):
        raise ValueError(f"{type(module).__name__} has no layer_idx to keep its keys under: this model can't generate")
    return index


def _layer_type(module: nn.Module) -> str | None:
    layer_type: str | None = getattr(module, "layer_type", None)
    if layer_type is not None:
        return layer_type
    types = getattr(getattr(module, "config", None), "layer_types", None)
    index = getattr(module, "layer_idx", None)
    return types[index] if types and index is not None else None
