"""The reference of landmark attention: grouped softmax over the whole score matrix.

Mohtashami and Jaggi, "Landmark Attention", arXiv 2305.16300, section 3.1. For a query at position i in block t:

    w  = softmax over the scores of {ordinary tokens j <= i of block t} and {landmarks of blocks before t}
    p  = softmax over the scores of the ordinary tokens of one past block, for each such block by itself
    weight of token j of block t:               w_j
    weight of token j of a block k before t:    w_{landmark of k} p_j

Landmarks' own values are never read; a landmark's query sees what the other queries of its block see.

So each row is one softmax over some keys' scores, where a past landmark stands for its block with the mean of the
block's values under p as its value. With only some of the keys at hand that is a partial (out, lse) like any other,
and with the whole row's lse the weights w are known, which is all that the backward needs: `LandmarkNaive`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ringattn.kernels.bands import Band
from ringattn.kernels.kernel import Kernel, Request, sum_dtype
from ringattn.kernels.landmark_bands import LandmarkBand
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

    weights = scores.masked_fill(~(own | (past & landmark)), -math.inf).softmax(dim=-1)
    out = weights.masked_fill(~own, 0.0) @ value
    for at in torch.nonzero(landmark).flatten().tolist():
        # Behind this landmark to its document's end, it stands for its block with the block's mean under p.
        rows = slice(at + 1, at + 1 + int((document[at + 1 :] == document[at]).sum()))
        tokens = slice(at - block, at)
        mean = scores[..., rows, tokens].softmax(dim=-1) @ value[..., tokens, :]
        out[..., rows, :] += weights[..., rows, at, None] * mean
    return out.transpose(1, 2).to(query.dtype)


class LandmarkNaive(Kernel):
    """Any device, dtype and block; the whole score matrix of a band in memory."""

    name = "landmark_naive"

    def refusal(self, request: Request) -> str | None:
        return None

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, band: Band, *, scale: float, softcap: float | None
    ) -> tuple[Tensor, Tensor]:
        own, landmarks, inner = _scores(query, key, band, scale)
        lse = torch.cat([own, landmarks], dim=-1).logsumexp(dim=-1)
        share = (landmarks - lse.unsqueeze(-1)).exp()
        weights = _whole((own - lse.unsqueeze(-1)).exp(), share.unsqueeze(-1) * inner)
        return weights @ _for_each_query_head(value, query).to(weights.dtype), lse

    def backward(
        self,
        grad_out: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        lse: Tensor,
        extra: Tensor,
        band: Band,
        *,
        scale: float,
        softcap: float | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        own, landmarks, inner = _scores(query, key, band, scale)
        wide = own.dtype
        lse, grad_out, delta = lse.to(wide).unsqueeze(-1), grad_out.to(wide), extra.to(wide).unsqueeze(-1)
        own, share = (own - lse).exp(), (landmarks - lse).exp()
        past = share.unsqueeze(-1) * inner
        grad_weights = grad_out @ _for_each_query_head(value, query).to(wide).transpose(-1, -2)
        # A past landmark's value is the mean of its block under p: its gradient, and through it those of p's scores.
        of_tokens = grad_weights[..., : past.shape[-1] * past.shape[-2]].view_as(past)
        of_landmarks = (inner * of_tokens).sum(dim=-1)
        grad_past = past * (of_tokens - of_landmarks.unsqueeze(-1))
        grad_past[..., -1] = share * (of_landmarks - delta)
        grad_scores = _whole(own * (grad_weights - delta), grad_past) * scale
        grad_query = grad_scores @ _for_each_query_head(key, query).to(wide)
        grad_key = _for_each_key_head(grad_scores.transpose(-1, -2) @ query.to(wide), key)
        grad_value = _for_each_key_head(_whole(own, past).transpose(-1, -2) @ grad_out, value)
        return grad_query, grad_key, grad_value


def _scores(query: Tensor, key: Tensor, band: Band, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Scores with the tokens of the own block [..., rows, keys] and with past landmarks [..., rows, blocks], -inf where
    a row does not read them; p [..., rows, blocks, stride], 0 at landmarks."""
    assert isinstance(band, LandmarkBand)
    wide = sum_dtype(query.dtype)
    scores = query.to(wide) @ _for_each_query_head(key, query).to(wide).transpose(-1, -2) * scale
    own, past = band.seen(query.device)
    tokens = scores[..., : band.past_blocks * band.stride].unflatten(-1, (band.past_blocks, band.stride))
    inner = torch.nn.functional.pad(tokens[..., : band.block].softmax(dim=-1), (0, 1))
    return scores.masked_fill(~own, -math.inf), tokens[..., band.block].masked_fill(~past, -math.inf), inner


def _whole(own: Tensor, past: Tensor) -> Tensor:
    """[..., rows, keys] and [..., rows, blocks, stride] of the first of these keys, added up."""
    return own + torch.nn.functional.pad(past.flatten(-2), (0, own.shape[-1] - past.shape[-1] * past.shape[-2]))


def _for_each_query_head(x: Tensor, query: Tensor) -> Tensor:
    return x.repeat_interleave(query.shape[1] // x.shape[1], dim=1)


def _for_each_key_head(x: Tensor, key: Tensor) -> Tensor:
    return x.unflatten(1, (key.shape[1], -1)).sum(dim=2)
