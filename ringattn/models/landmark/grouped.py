"""Partial results of the grouped softmax (arXiv 2305.16300, section 3.1) on one device: over a window's own blocks, and
over blocks that were retrieved.

Each is an ordinary (out, lse): the grouped softmax is one softmax over {tokens of the own block} and {landmarks of past
blocks}, in which a past block's value is the mean of its tokens under a softmax of their own. So the two merge exactly.
Sums are fp32, or fp64 for fp64 inputs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ringattn.kernels import choose_kernel
from ringattn.kernels.kernel import Kernel, Request, sum_dtype
from ringattn.kernels.landmark_bands import LandmarkBand, find_landmark_bands
from ringattn.sequence.mask import Mask

_NOTHING = float("-inf")

# (row, block, slot), int64 [u] each, to keys at their positions and values, [u, block + 1, D].
Fetch = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def window_attention(query: Tensor, key: Tensor, value: Tensor, *, block: int, scale: float) -> tuple[Tensor, Tensor]:
    """Attention inside a window, with positions applied.

    query: [B, Hq, n, D], which stand at its end; key, value: [B, Hkv, start + n, D], from the window's start on.
    Returns out [B, Hq, n, D] and lse [B, Hq, n].
    """
    rows, columns, stride = query.shape[2], key.shape[2], block + 1
    if (columns - rows) % stride or rows == 1:
        return _rows_within_blocks(query, key, value, block=block, scale=scale)
    # Whole blocks and a beginning of one: what the kernels of training compute.
    kernel = _kernel(Request(query.device, query.dtype, query.shape[-1], landmark_block=block))
    return kernel.forward(query, key, value, _band(rows, columns, block), scale=scale, softcap=None)


# Nearly all windows of a text are alike, and so is what a kernel derives from their band.
@functools.lru_cache(maxsize=64)
def _band(rows: int, columns: int, block: int) -> LandmarkBand:
    """The last `rows` of a document of `columns` tokens, over all of it."""
    mask = Mask(causal=True, landmark_block=block)
    (band,) = find_landmark_bands(np.arange(columns - rows, columns), np.arange(columns), mask, columns)
    return band


@functools.lru_cache(maxsize=64)
def _kernel(request: Request) -> Kernel:
    return choose_kernel("auto", request)


def _rows_within_blocks(
    query: Tensor, key: Tensor, value: Tensor, *, block: int, scale: float
) -> tuple[Tensor, Tensor]:
    """`window_attention` of rows that start anywhere: of a few tokens, over a score matrix that is whole."""
    start = key.shape[2] - query.shape[2]
    wide, stride = sum_dtype(query.dtype), block + 1
    batch, heads, rows, _ = query.shape
    repeat, columns = heads // key.shape[1], key.shape[2]
    places = torch.arange(columns, device=query.device)
    own, landmark = places // stride, places % stride == block
    mine, at = own[start:, None], places[start:, None]
    inside = (own == mine) & (places <= at) & ~landmark
    past = own < mine
    grouped = query.to(wide).reshape(batch, key.shape[1], repeat * rows, -1)
    scores = (grouped @ key.to(wide).transpose(-1, -2)).mul_(scale).view(batch, heads, rows, columns)

    outer = scores.masked_fill(~(inside | (past & landmark)), _NOTHING)
    lse = outer.logsumexp(dim=-1)
    # No row is empty: windows hold whole blocks, so that a landmark's row sees its block's tokens at least.
    weights = outer.sub_(lse[..., None]).exp_()
    blocks = columns // stride
    if blocks and start + rows > stride:
        whole = slice(0, blocks * stride)
        tokens = scores[..., whole].view(batch, heads, rows, blocks, stride)
        share = weights[..., whole].view(batch, heads, rows, blocks, stride)
        spread = tokens[..., :block].softmax(dim=-1) * share[..., block:]
        # In a row's own block the landmark has no share yet; in past ones the tokens have none of their own.
        share[..., :block] += spread
        share[..., block] = 0.0
    of_heads = weights.view(batch, key.shape[1], repeat * rows, columns)
    return (of_heads @ value.to(wide)).view(batch, heads, rows, -1), lse


def retrieved_attention(
    query: Tensor, chosen: Tensor, slots: Tensor, fetch: Fetch, *, key_heads: int, block: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention over the blocks that each query retrieved.

    query: [B, Hq, n, D], with positions applied. chosen: int64 [B, Hq, n, k], blocks as `fetch` knows them, -1 for
    none; slots: likewise, where each is read. Returns out [B, Hq, n, D] and lse [B, Hq, n], -inf where there was none.

    Queries are gathered by block, so that each block is fetched once for all that want it at one slot.
    """
    wide = sum_dtype(query.dtype)
    batch, heads, rows, k = chosen.shape
    dim, stride = query.shape[-1], block + 1
    scores = query.new_full((batch * heads * rows * k,), _NOTHING, dtype=wide)
    means = query.new_zeros((batch * heads * rows * k, dim), dtype=wide)
    flat = query.to(wide).reshape(-1, dim)
    wanted = (chosen.flatten() >= 0).nonzero()[:, 0]
    if len(wanted):
        row = wanted // (k * rows * (heads // key_heads))
        number, slot = chosen.flatten()[wanted], slots.flatten()[wanted]
        numbers, places = int(number.max()) + 1, int(slot.max()) + 1
        names = (row * numbers + number) * places + slot
        found, inverse, counts = names.unique(return_inverse=True, return_counts=True)
        members = wanted[inverse.argsort(stable=True)]
        first = counts.cumsum(0) - counts
        # Blocks that are wanted about as often go together: little is padded.
        for part in _parts(counts, budget=batch * heads * rows * stride, block=stride):
            name = found[part]
            at = (name // places // numbers, name // places % numbers, name % places)
            key, value = (x.to(wide) for x in fetch(*at))
            most = int(counts[part].max())
            within = torch.arange(most, device=query.device)
            there = within < counts[part, None]
            pair = members[(first[part, None] + within).clamp_(max=len(members) - 1)]
            score = (flat[pair // k] @ key.transpose(-1, -2)).mul_(scale)
            mean = score[..., :block].softmax(dim=-1) @ value[:, :block]
            scores[pair[there]] = score[..., block][there]
            means[pair[there]] = mean[there]
    scores = scores.view(batch, heads, rows, k)
    lse = scores.logsumexp(dim=-1)
    weights = (scores - lse.masked_fill(lse == _NOTHING, 0.0)[..., None]).exp_()
    out = weights[..., None, :] @ means.view(batch, heads, rows, k, dim)
    return out[..., 0, :], lse


def _parts(counts: Tensor, *, budget: int, block: int) -> list[Tensor]:
    """Which blocks are computed together, int64 [u] each: few enough that their padded scores fit into `budget`."""
    order = counts.argsort(descending=True, stable=True)
    sizes = counts[order].tolist()
    parts, start = [], 0
    while start < len(sizes):
        stop = start + max(1, min(_TOGETHER, budget // (sizes[start] * block)))
        parts.append(order[start:stop])
        start = stop
    return parts


# Blocks that are fetched together, at most.
_TOGETHER = 64
