"""The reference of landmark attention: grouped softmax over the whole score matrix.

Mohtashami and Jaggi, "Landmark Attention", arXiv 2305.16300, section 3.1. For a query at position i in block t:

    w  = softmax over the scores of {ordinary tokens j <= i of block t} and {landmarks of blocks before t}
    p  = softmax over the scores of the ordinary tokens of one past block, for each such block by itself
    weight of token j of block t:               w_j
    weight of token j of a block k before t:    w_{landmark of k} p_j

Landmarks' own values are never read; a landmark's query sees what the other queries of its block see.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ringattn.kernels.kernel import sum_dtype
from ringattn.sequence.landmarks import Bounds, are_landmarks, block_numbers


def landmark_attention(
    query: Tensor, key: Tensor, value: Tensor, *, block: int, documents: Bounds = None, scale: float | None = None
) -> Tensor:
    """Landmark attention over a whole sequence with landmarks; differentiable, with [S, S] scores in memory.

    query: [B, S, Hq, D]; key, value: [B, S, Hkv, D]; Hkv divides Hq. block: ordinary tokens of a block. documents:
    cumulative lengths of packed documents from 0 to S, landmarks included. scale: 1 / sqrt(D) unless given.
    Returns [B, S, Hq, D] in the dtype of query; scores are fp32, or fp64 for fp64 inputs.
    """
    wide, length, repeat = sum_dtype(query.dtype), query.shape[1], query.shape[2] // key.shape[2]
    positions = np.arange(length, dtype=np.int64)
    numbers = (*block_numbers(positions, length, documents, block), are_landmarks(positions, length, documents, block))
    document, number, landmark, position = (torch.from_numpy(x).to(query.device) for x in (*numbers, positions))

    same = document[:, None] == document
    own = same & (number[:, None] == number) & (position <= position[:, None]) & ~landmark
    past = same & (number < number[:, None])

    query, key, value = (x.to(wide).transpose(1, 2) for x in (query, key, value))
    key, value = key.repeat_interleave(repeat, dim=1), value.repeat_interleave(repeat, dim=1)
    scores = query @ key.transpose(-1, -2) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)

    weights = _softmax(scores, own | (past & landmark))
    result = torch.where(own, weights, 0.0)
    for k in torch.unique(number[landmark]).tolist():
        for d in torch.unique(document[landmark & (number == k)]).tolist():
            members = (document == d) & (number == k)
            inside = past & members & ~landmark
            share = weights[..., members & landmark]
            result = result + torch.where(inside, share * _softmax(scores, inside), 0.0)
    return (result @ value).transpose(1, 2).to(query.dtype)


def _softmax(scores: Tensor, shown: Tensor) -> Tensor:
    """Softmax over the keys that `shown` [S, S] shows each query; 0 elsewhere, and in rows that see none."""
    largest = scores.detach().masked_fill(~shown, -math.inf).amax(dim=-1, keepdim=True)
    largest = largest.masked_fill(largest == -math.inf, 0.0)
    weights = torch.where(shown, (torch.where(shown, scores, largest) - largest).exp(), 0.0)
    total = weights.sum(dim=-1, keepdim=True)
    return weights / torch.where(total == 0, torch.ones_like(total), total)
