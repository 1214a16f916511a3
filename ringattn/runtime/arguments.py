"""What a user may pass to attention: checked at once, each with the rule, the value that breaks it and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ringattn.sequence.layout import Layout
from ringattn.sequence.mask import Mask

_FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What one attention call asks for beside its tensors, as `SequenceParallel.attention` takes it."""

    causal: bool = True
    window: int | None = None
    documents: Sequence[int] | Tensor | None = None
    key_documents: Sequence[int] | Tensor | None = None
    scale: float | None = None
    softcap: float | None = None
    length: int | None = None
    key_length: int | None = None
    layout: Layout | None = None
    landmark_block: int | None = None

    def mask(self) -> Mask:
        """ValueError where the window, the documents or the landmarks make none."""
        documents, key_documents = whole_numbers(self.documents), whole_numbers(self.key_documents)
        return Mask(self.causal, self.window, documents, key_documents, self.landmark_block)


def check_tensors(query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None) -> None:
    """Raise ValueError where query [B, n, Hq, D], key and value [B, m, Hkv, D] and sinks [Hq] don't go together."""
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.dim() != 4:
            raise ValueError(f"{name} must be [batch, tokens, heads, head size], got the shape {tuple(tensor.shape)}")
    if key.shape != value.shape:
        raise ValueError(f"key and value must have the same shape, got {tuple(key.shape)} and {tuple(value.shape)}")
    if query.shape[0] != key.shape[0]:
        raise ValueError(f"query and key must have the same batch size, got {query.shape[0]} and {key.shape[0]}")
    if query.shape[3] != key.shape[3]:
        raise ValueError(f"query and key must have the same head size, got {query.shape[3]} and {key.shape[3]}")
    if key.shape[2] < 1 or query.shape[2] % key.shape[2] or query.shape[2] < 1:
        raise ValueError(
            "the number of query heads must be a multiple of the number of key and value heads, "
            f"got {query.shape[2]} and {key.shape[2]}"
        )
    if not query.dtype == key.dtype == value.dtype:
        raise ValueError(
            f"query, key and value must have the same dtype, got {query.dtype}, {key.dtype} and {value.dtype}"
        )
    if query.dtype not in _FLOATING:
        raise ValueError(f"query, key and value must be floating point (16 bits or more), got {query.dtype}")
    if not query.device == key.device == value.device:
        raise ValueError(
            f"query, key and value must be on one device, got {query.device}, {key.device} and {value.device}"
        )
    if sinks is not None and (sinks.shape != query.shape[2:3] or sinks.device != query.device):
        raise ValueError(
            f"sinks must be one number a query head, [{query.shape[2]}], on the query's device; "
            f"got the shape {tuple(sinks.shape)} on {sinks.device}"
        )


def whole_numbers(bounds: Sequence[int] | Tensor | None) -> tuple[int, ...] | None:
    """Cumulative lengths as a tuple; ValueError where they are not whole numbers."""
    if bounds is None:
        return None
    values = bounds.tolist() if isinstance(bounds, Tensor) else list(bounds)
    if any(not isinstance(value, int) for value in values):
        raise ValueError(f"documents holds whole numbers, cumulative lengths; got {values[:6]}")
    return tuple(values)
