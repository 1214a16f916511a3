"""What attention is, written out without any of the library's code: the words that every test is held against."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def sees(
    i: int,
    j: int,
    *,
    queries: int,
    keys: int,
    causal: bool = True,
    window: int | None = None,
    documents: Sequence[int] | None = None,
    key_documents: Sequence[int] | None = None,
) -> bool:
    """Does query i see key j?"""
    starts, stops = (0, 0), (queries, keys)
    if documents is not None:
        key_documents = documents if key_documents is None else key_documents
        inside = [d for d in range(len(documents) - 1) if documents[d] <= i < documents[d + 1]]
        (d,) = inside
        starts, stops = (documents[d], key_documents[d]), (documents[d + 1], key_documents[d + 1])
    if not starts[1] <= j < stops[1]:
        return False
    # Positions counted from the end of the document: the last query stands at the last key.
    distance = (j - stops[1]) - (i - stops[0])
    if causal and distance > 0:
        return False
    return window is None or abs(distance) < window


def dense_mask(queries: int, keys: int, **mask: object) -> Tensor:
    """bool [queries, keys]."""
    rows = [[sees(i, j, queries=queries, keys=keys, **mask) for j in range(keys)] for i in range(queries)]  # type: ignore[arg-type]
    return torch.tensor(rows, dtype=torch.bool).view(queries, keys)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """[B, n, Hq, D] by [B, m, Hkv, D]: softmax over what `mask` [n, m] shows, a sink beside it; 0 where nothing is."""
    repeat = query.shape[2] // key.shape[2]
    key, value = key.repeat_interleave(repeat, dim=2), value.repeat_interleave(repeat, dim=2)
    scores = torch.einsum("bihd,bjhd->bhij", query, key) * (scale or 1 / math.sqrt(query.shape[3]))
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    weights = torch.where(mask, scores.exp(), torch.zeros_like(scores))
    total = weights.sum(dim=-1, keepdim=True)
    if sinks is not None:
        total = total + sinks.exp()[None, :, None, None]
    weights = weights / torch.where(total == 0, torch.ones_like(total), total)
    return torch.einsum("bhij,bjhd->bihd", weights, value)
