"""Keys and values of a sequence that is being continued, spread over the ranks: each holds its own share, always.

The prompt's are kept where the prefill computed them, under whatever layout it was cut by; those of later tokens go to
one rank after the other. A new token's query is on every rank (the weights are, so each computes it), meets the rank's
own keys there, and the partial results (out, lse) are gathered and merged in one order on all ranks: what
Flash-Decoding (T. Dao et al., 2023, "split-k") does with the processors of one device. What travels for a token and
layer is heads x (head size + 1) numbers a rank, whatever the length.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ringattn.attention import SequenceParallel
from ringattn.kernels import choose_kernel
from ringattn.kernels.bands import Band
from ringattn.kernels.kernel import Request, sum_dtype
from ringattn.kernels.merge import merge_
from ringattn.runtime.call import finish_forward

# Slots added at a time where more tokens come than were reserved.
_MORE = 64


class LayerShard:
    """One layer's keys and values on this rank, in ascending order of position.

    key, value: [B, Hkv, slots, D], of which the first `count` are filled; positions: int64 [slots].
    window: how many keys a query sees, its own included; what no later query will see is dropped.
    """

    def __init__(self, key: Tensor, value: Tensor, positions: Tensor, *, window: int | None, reserve: int) -> None:
        self.window = window
        self.count = 0
        self.key = key.new_empty(0)
        self.value = value.new_empty(0)
        self.positions = positions[:0]
        # Of a windowed layer's later tokens, no more are ever needed than the window holds.
        self._store(key, value, positions, reserve if window is None else min(reserve, window))

    def append(self, key: Tensor, value: Tensor, position: int) -> None:
        """Add one token's key and value [B, Hkv, 1, D]."""
        if self.count == self.key.shape[2]:
            first = self.first_seen(position)
            kept = slice(first, self.count)
            more = _MORE if self.window is None else min(_MORE, self.window)
            self._store(self.key[:, :, kept], self.value[:, :, kept], self.positions[kept], more)
        self.key[:, :, self.count] = key[:, :, 0]
        self.value[:, :, self.count] = value[:, :, 0]
        self.positions[self.count] = position
        self.count += 1

    def first_seen(self, position: int) -> int:
        """The index of the first key here that a query at `position` sees."""
        if self.window is None:
            return 0
        return int(torch.searchsorted(self.positions[: self.count], position - self.window, right=True))

    @property
    def bytes(self) -> int:
        """What the keys and values take, empty slots too."""
        return self.key.nbytes + self.value.nbytes

    def _store(self, key: Tensor, value: Tensor, positions: Tensor, reserve: int) -> None:
        batch, heads, count, dim = key.shape
        slots = count + reserve
        for name, old in (("key", key), ("value", value)):
            new = old.new_empty((batch, heads, slots, dim))
            new[:, :, :count] = old
            setattr(self, name, new)
        places = positions.new_empty(slots)
        places[:count] = positions
        self.positions, self.count = places, count


class ShardedCache:
    """The cache of all layers on this rank.

    sp: the ranks. reserve: how many tokens will follow the prompt, so that slots are made once.
    length: tokens read so far, over all ranks. decoding: whether the call under way reads one token, and not a prompt.
    """

    def __init__(self, sp: SequenceParallel, *, reserve: int = 0) -> None:
        self.sp = sp
        self.length = 0
        self.decoding = False
        # What layers other than attention keep (`ringattn.models.hybrid.states`).
        self.states: Any = None
        self._reserve = -(-reserve // sp.world)
        self._layers: dict[int, LayerShard] = {}

    @property
    def bytes(self) -> int:
        """What this rank's keys and values take."""
        return sum(layer.bytes for layer in self._layers.values())

    def tokens(self, layer: int) -> int:
        """How many tokens' keys this rank holds of a layer."""
        return self._layers[layer].count if layer in self._layers else 0

    def keep(self, layer: int, key: Tensor, value: Tensor, *, length: int, window: int | None) -> None:
        """Keep this rank's shards [B, Hkv, n, D] of a prompt of `length` tokens that is being read."""
        positions = self.sp.positions(length)
        first = 0 if window is None else int(torch.searchsorted(positions, length - window, right=True))
        self._layers[layer] = LayerShard(
            key[:, :, first:], value[:, :, first:], positions[first:], window=window, reserve=self._reserve
        )

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        window: int | None,
        scale: float | None,
        softcap: float | None,
        sinks: Tensor | None,
    ) -> Tensor:
        """Attention of one new token over all keys of all ranks, its own included. Collective.

        query: [B, Hq, 1, D]; key, value: [B, Hkv, 1, D], the same on every rank. Returns [B, 1, Hq, D], the same bits
        on every rank.
        """
        position = self.length
        if layer not in self._layers:
            nothing = torch.empty(0, dtype=torch.int64)
            self._layers[layer] = LayerShard(
                key[:, :, :0], value[:, :, :0], nothing, window=window, reserve=self._reserve
            )
        shard = self._layers[layer]
        if position % self.sp.world == self.sp.rank:
            shard.append(key, value, position)
        out, lse = self._own_part(shard, query, position, scale=scale, softcap=softcap)
        parts = self.sp.gather(torch.cat((out, lse.unsqueeze(-1)), dim=-1))
        out, lse = parts[0][..., :-1].contiguous(), parts[0][..., -1].contiguous()
        for part in parts[1:]:
            merge_(out, lse, part[..., :-1].contiguous(), part[..., -1].contiguous())
        return finish_forward({"out": out, "lse": lse}, sinks, query.dtype)[0]

    def _own_part(
        self, shard: LayerShard, query: Tensor, position: int, *, scale: float | None, softcap: float | None
    ) -> tuple[Tensor, Tensor]:
        """(out [1, B, Hq, D], lse [1, B, Hq]) over this rank's keys, in the dtype of sums."""
        batch, heads, _, dim = query.shape
        wide = sum_dtype(query.dtype)
        seen = slice(shard.first_seen(position), shard.count)
        keys = seen.stop - seen.start
        if keys == 0:
            return (
                query.new_zeros((1, batch, heads, dim), dtype=wide),
                query.new_full((1, batch, heads), float("-inf"), dtype=wide),
            )
        kernel = choose_kernel(self.sp.kernel, Request(query.device, query.dtype, dim, softcap))
        out, lse = kernel.forward(
            query,
            shard.key[:, :, seen],
            shard.value[:, :, seen],
            Band(0, 1, 0, keys),
            scale=1 / math.sqrt(dim) if scale is None else scale,
            softcap=softcap,
        )
        return out.to(wide).permute(2, 0, 1, 3), lse.to(wide).permute(2, 0, 1)
