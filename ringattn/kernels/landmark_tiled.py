"""Landmark attention over tiles of the score matrix that stay in a core's cache, in batched matrix products.

The formulas are those of `ringattn.kernels.landmark_naive`. What makes one pass enough: landmarks are few, so the
log-sum-exp of some rows is known before the first tile of ordinary tokens is made, a tile's weights are final, and
nothing is rescaled. Blocks that a row does not read have a share of 0, so tiles need no mask. Scores lie [keys, rows],
so that sums over the tokens of a block run along rows.

Query heads that share a key head lie side by side as rows: keys and values are not repeated. 16-bit inputs are
computed in fp32. What is copied are rows and keys, never scores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ringattn.kernels.bands import Band
from ringattn.kernels.kernel import Kernel, Request, sum_dtype
from ringattn.kernels.landmark_bands import LandmarkBand

# Rows of one tile (those of all query heads that share a key head), and scores of one tile: small enough for a core's
# cache and to read few blocks that only some of the rows see, large enough for matrix products at speed.
_TILE_ROWS = 192
_TILE_SCORES = 256 * 1024


class LandmarkTiled(Kernel):
    """Any device, dtype and block."""

    name = "landmark_tiled"

    def refusal(self, request: Request) -> str | None:
        return None

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, band: Band, *, scale: float, softcap: float | None
    ) -> tuple[Tensor, Tensor]:
        assert isinstance(band, LandmarkBand)
        wide = sum_dtype(query.dtype)
        keys, values = _Split.of(key, band, wide), _Split.of(value, band, wide)
        out, lse = query.new_empty(query.shape, dtype=wide), query.new_empty(query.shape[:3], dtype=wide)
        for tile in _tiles(band, key.shape[1], query.shape[1] // key.shape[1]):
            rows = tile.take(query, wide).mul_(scale)
            landmarks = _landmark_scores(keys, rows, tile)
            total = landmarks.logsumexp(dim=1)
            own = _own_scores(keys, rows, tile)
            if own is not None:
                total = torch.logaddexp(total, tile.spread(own.logsumexp(dim=2)))
                own = own.sub_(tile.pick(total).unsqueeze(2)).exp_()
                found = tile.spread(own.transpose(2, 3) @ tile.own_tokens(values), 0.0)
            else:
                found = torch.zeros_like(rows)
            share = landmarks.sub_(total.unsqueeze(1)).exp_()
            for heads, blocks, tokens in tile.parts(keys):
                weights, sums = _exponentials(keys.tokens[heads, tokens], rows[heads], tile.block)
                weights.mul_((share[heads, blocks] / sums).unsqueeze(2))
                found[heads].baddbmm_(weights.flatten(1, 2).transpose(1, 2), values.tokens[heads, tokens])
            tile.put(out, found)
            tile.put(lse, total)
        return out, lse

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
        assert isinstance(band, LandmarkBand)
        wide = sum_dtype(query.dtype)
        keys, values = _Split.of(key, band, wide), _Split.of(value, band, wide)
        grad_keys, grad_values = (_Split(*map(torch.zeros_like, split)) for split in (keys, values))
        grad_query = query.new_empty(query.shape, dtype=wide)
        for tile in _tiles(band, key.shape[1], query.shape[1] // key.shape[1]):
            rows, grad_rows = tile.take(query, wide).mul_(scale), tile.take(grad_out, wide)
            total, delta = tile.take(lse, wide), tile.take(extra, wide)
            share = _landmark_scores(keys, rows, tile).sub_(total.unsqueeze(1)).exp_()
            own = _own_scores(keys, rows, tile)
            if own is not None:
                weights = own.sub_(tile.pick(total).unsqueeze(2)).exp_()
                mine, grads = tile.pick(rows), tile.pick(grad_rows)
                tile.add_own(grad_values, weights @ grads)
                slopes = tile.own_tokens(values) @ grads.transpose(2, 3)
                slopes = slopes.sub_(tile.pick(delta).unsqueeze(2)).mul_(weights)
                tile.add_own(grad_keys, slopes @ mine)
                found = tile.spread(slopes.transpose(2, 3) @ tile.own_tokens(keys), 0.0)
            else:
                found = torch.zeros_like(rows)
            # of_landmarks: the gradient of a past landmark's value, the mean of its block.
            of_landmarks = torch.empty_like(share)
            for heads, blocks, tokens in tile.parts(keys):
                weights, sums = _exponentials(keys.tokens[heads, tokens], rows[heads], tile.block)
                slopes = torch.bmm(values.tokens[heads, tokens], grad_rows[heads].transpose(1, 2)).view_as(weights)
                slopes.mul_(weights)
                mean = torch.sum(slopes, dim=2).div_(sums)
                of_landmarks[heads, blocks] = mean
                factor = (share[heads, blocks] / sums).unsqueeze(2)
                slopes.mul_(factor).addcmul_(weights.mul_(factor), mean.unsqueeze(2), value=-1)
                weights, slopes = weights.flatten(1, 2), slopes.flatten(1, 2)
                grad_values.tokens[heads, tokens].baddbmm_(weights, grad_rows[heads])
                grad_keys.tokens[heads, tokens].baddbmm_(slopes, rows[heads])
                found[heads].baddbmm_(slopes.transpose(1, 2), keys.tokens[heads, tokens])
            slopes = of_landmarks.sub_(delta.unsqueeze(1)).mul_(share)
            grad_keys.landmarks[:, : tile.past].baddbmm_(slopes, rows)
            found.baddbmm_(slopes.transpose(1, 2), keys.landmarks[:, : tile.past])
            tile.put(grad_query, found.mul_(scale))
        return grad_query, grad_keys.join(key, band), grad_values.join(value, band)


def _exponentials(keys: Tensor, rows: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """exp(scores - their largest in each block) [heads, blocks, block, rows], and their sums over each block.

    keys: [heads, tokens, D]; rows: [heads, rows, D].
    """
    scores = torch.bmm(keys, rows.transpose(1, 2)).unflatten(1, (-1, block))
    scores.sub_(scores.amax(dim=2, keepdim=True)).exp_()
    return scores, scores.sum(dim=2)


def _landmark_scores(keys: _Split, rows: Tensor, tile: _Tile) -> Tensor:
    """[heads, past blocks, rows], -inf where a row is not behind the block."""
    scores = keys.landmarks[:, : tile.past] @ rows.transpose(1, 2)
    for index, past in enumerate(tile.pasts):
        scores[:, past:, index * tile.width : (index + 1) * tile.width] = -math.inf
    return scores


def _own_scores(keys: _Split, rows: Tensor, tile: _Tile) -> Tensor | None:
    """[heads, own blocks, tokens, rows of the block], -inf behind the row; None where no row's own block is here."""
    if not tile.own:
        return None
    tokens = tile.own_tokens(keys)
    scores = tokens @ tile.pick(rows).transpose(2, 3)
    behind = torch.ones(tokens.shape[2], tile.size, dtype=torch.bool, device=rows.device).tril(-1)
    return scores.masked_fill_(behind.repeat(1, tile.group), -math.inf)


class _Split(NamedTuple):
    """Keys, values or gradients of them, heads and batch joined: the ordinary tokens of blocks with a landmark
    [B H, blocks * block, D], these landmarks [B H, blocks, D], and the rest, a last short block [B H, tokens, D]."""

    tokens: Tensor
    landmarks: Tensor
    rest: Tensor

    @classmethod
    def of(cls, x: Tensor, band: LandmarkBand, dtype: torch.dtype) -> _Split:
        """From x [B, H, keys, D]."""
        whole = band.keys // band.stride
        blocks = x[:, :, : whole * band.stride].unflatten(2, (whole, band.stride))
        parts = (
            blocks[:, :, :, : band.block].flatten(2, 3),
            blocks[:, :, :, band.block],
            x[:, :, whole * band.stride :],
        )
        return cls(*(part.to(dtype).flatten(0, 1).contiguous() for part in parts))

    def join(self, like: Tensor, band: LandmarkBand) -> Tensor:
        """Back together, [B, H, keys, D] as `like`."""
        x = self.tokens.new_empty(like.shape)
        whole = band.keys // band.stride
        blocks = x[:, :, : whole * band.stride].unflatten(2, (whole, band.stride))
        blocks[:, :, :, : band.block] = self.tokens.view(*like.shape[:2], whole, band.block, like.shape[3])
        blocks[:, :, :, band.block] = self.landmarks.view(*like.shape[:2], whole, like.shape[3])
        x[:, :, whole * band.stride :] = self.rest.view_as(x[:, :, whole * band.stride :])
        return x


@dataclass(frozen=True)
class _Tile:
    """Some rows of a band: `count` blocks of `size` rows each (`stride`, or what a last short block has).

    Taken together, they lie [B Hkv, rows, ...] in the order block, query head of the group, row. pasts: of each row
    block, how many key blocks are before it. own: (row block, key block) where they are the same, counted in the tile
    and in the band. block: ordinary tokens of a block. whole: key blocks with a landmark.
    """

    first: int
    count: int
    size: int
    key_heads: int
    group: int
    pasts: tuple[int, ...]
    own: tuple[tuple[int, int], ...]
    block: int
    whole: int

    @property
    def past(self) -> int:
        return self.pasts[-1]

    @property
    def width(self) -> int:
        """Rows of one block."""
        return self.group * self.size

    def _view(self, x: Tensor) -> Tensor:
        """[B, Hq, rows, ...] -> a view [B, Hkv, blocks, group, size, ...] of the tile's rows."""
        rows = x[:, :, self.first : self.first + self.count * self.size]
        return rows.unflatten(2, (self.count, self.size)).unflatten(1, (self.key_heads, self.group)).transpose(2, 3)

    def take(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """The tile's rows of x [B, Hq, rows, ...], always a copy."""
        view = self._view(x)
        copy = torch.empty(view.shape, dtype=dtype, device=x.device).copy_(view)
        return copy.flatten(2, 4).flatten(0, 1)

    def put(self, x: Tensor, rows: Tensor) -> None:
        """Write the tile's rows into x [B, Hq, rows, ...]."""
        view = self._view(x)
        view.copy_(rows.view(view.shape))

    def pick(self, rows: Tensor) -> Tensor:
        """The row blocks whose own block is among the keys: [B Hkv, rows, ...] -> [B Hkv, own, width, ...]."""
        blocks = rows.unflatten(1, (self.count, self.width))
        if len(self.own) == self.count:
            return blocks
        return blocks[:, [row for row, _ in self.own]]

    def spread(self, picked: Tensor, missing: float = -math.inf) -> Tensor:
        """The inverse of `pick`, with `missing` where the own block is not here."""
        if len(self.own) == self.count:
            return picked.flatten(1, 2)
        blocks = picked.new_full((picked.shape[0], self.count, *picked.shape[2:]), missing)
        blocks[:, [row for row, _ in self.own]] = picked
        return blocks.flatten(1, 2)

    def own_tokens(self, split: _Split) -> Tensor:
        """[B Hkv, own, tokens, D]: the ordinary tokens of the own blocks."""
        if self.own[0][1] == self.whole:
            return split.rest.unsqueeze(1)
        return split.tokens.unflatten(1, (self.whole, self.block))[:, _run([key for _, key in self.own])]

    def add_own(self, split: _Split, found: Tensor) -> None:
        """Add what belongs to the ordinary tokens of the own blocks."""
        if self.own[0][1] == self.whole:
            split.rest.add_(found[:, 0])
        else:
            split.tokens.unflatten(1, (self.whole, self.block))[:, _run([key for _, key in self.own])] += found

    def parts(self, keys: _Split) -> Iterator[tuple[slice, slice, slice]]:
        """Heads, key blocks and their ordinary tokens, of such sizes that their scores are a tile."""
        each = self.block * self.count * self.width
        blocks = max(1, min(self.past, _TILE_SCORES // each))
        heads = max(1, _TILE_SCORES // (each * blocks))
        for h in range(0, keys.tokens.shape[0], heads):
            for start in range(0, self.past, blocks):
                stop = min(self.past, start + blocks)
                yield slice(h, h + heads), slice(start, stop), slice(start * self.block, stop * self.block)


def _run(indices: list[int]) -> slice | list[int]:
    """Neighbours as a slice, which copies nothing."""
    return slice(indices[0], indices[-1] + 1) if indices[-1] - indices[0] + 1 == len(indices) else indices


def _tiles(band: LandmarkBand, key_heads: int, group: int) -> Iterator[_Tile]:
    """The rows of `band`, a few whole blocks at a time, and a last short block by itself."""
    count, rest = divmod(band.rows, band.stride)
    each = max(1, _TILE_ROWS // (group * band.stride))
    found = [(first, min(each, count - first), band.stride) for first in range(0, count, each)]
    if rest:
        found.append((count, 1, rest))
    for first, blocks, size in found:
        pasts = tuple(int(past) for past in band.past[first : first + blocks])
        own = tuple((row, int(key)) for row, key in enumerate(band.own[first : first + blocks]) if key >= 0)
        whole = band.keys // band.stride
        yield _Tile(first * band.stride, blocks, size, key_heads, group, pasts, own, band.block, whole)
