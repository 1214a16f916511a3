"""Landmark attention as its paper defines it (arXiv 2305.16300, section 3.1), one query at a time, in groups.

Written from the definition alone and without any of the library's code.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor


def grouped_softmax(scores: Tensor, groups: Sequence[int]) -> Tensor:
    """softmax of each group of `scores` [n] by itself."""
    weights = scores.exp()
    total = {group: sum(w for w, g in zip(weights, groups, strict=True) if g == group) for group in groups}
    return torch.stack([w / total[g] for w, g in zip(weights, groups, strict=True)])


def landmark_attention(
    query: Tensor, key: Tensor, value: Tensor, block: int, documents: Sequence[int] | None = None
) -> Tensor:
    """query [B, S, Hq, D] by key, value [B, S, Hkv, D], differentiable."""
    documents = documents or (0, query.shape[1])
    repeat = query.shape[2] // key.shape[2]
    rows = []
    for first, stop in itertools.pairwise(documents):
        for i in range(first, stop):
            heads = [
                _row(
                    query[b, i, h], key[b, first:stop, h // repeat], value[b, first:stop, h // repeat], i - first, block
                )
                for b in range(query.shape[0])
                for h in range(query.shape[2])
            ]
            rows.append(torch.stack(heads).view(query.shape[0], query.shape[2], -1))
    return torch.stack(rows, dim=1)


def _row(query: Tensor, key: Tensor, value: Tensor, i: int, block: int) -> Tensor:
    """The output [D] of the query at `i` of its document, whose keys and values are [S, D]."""
    stride = block + 1

    def is_landmark(j: int) -> bool:
        return j % stride == block

    def landmark_of(j: int) -> int:
        return j // stride * stride + block

    # A token of another block is grouped with its block; the landmarks of other blocks are grouped with the tokens of
    # the query's own block, and its own landmark is left out. Only what stands before the query is seen.
    seen = [j for j in range(i + 1) if not (is_landmark(j) and j // stride == i // stride)]
    groups = [i // stride if is_landmark(j) else j // stride for j in seen]
    share = dict(zip(seen, grouped_softmax(key[seen] @ query / math.sqrt(len(query)), groups), strict=True))
    out = torch.zeros_like(query)
    for j in seen:
        if is_landmark(j):
            continue
        weight = share[j] if j // stride == i // stride else share[j] * share[landmark_of(j)]
        out = out + weight * value[j]
    return out
