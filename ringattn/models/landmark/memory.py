"""What a landmark model remembers of a text: the window that it reads, exactly, and past blocks, to be retrieved.

A text is read in windows of whole blocks. A token attends to its window by grouped softmax, and to the k past blocks
whose landmarks its query meets best (arXiv 2305.16300, section 3.2). Keys are kept without positions, for where a block
stands depends on who reads it (section 3.4, `ringattn.models.landmark.slots`). Blocks are dealt to the ranks in turn
and stay there: each rank searches its own landmarks, the ranks agree on the best, each answers for those that it holds,
and the partial results are merged, as in `ringattn.models.cache`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ringattn.attention import SequenceParallel
from ringattn.kernels.merge import merge_
from ringattn.models.landmark.blocks import Blocks, DeviceHome, FileHome, Home
from ringattn.models.landmark.grouped import retrieved_attention, window_attention
from ringattn.models.landmark.search import Rotation, Searcher, check_search, make_searcher
from ringattn.models.landmark.slots import Slots
from ringattn.settings.retrieval import RetrievalConfig, window_blocks


class _Layer:
    """One layer's window [B, Hkv, tokens, D] and past blocks on this rank."""

    def __init__(self, key: Tensor, tokens: int, blocks: Blocks, searcher: Searcher) -> None:
        batch, heads, _, dim = key.shape
        self.key = key.new_empty((batch, heads, tokens, dim))
        self.value = key.new_empty((batch, heads, tokens, dim))
        self.blocks, self.searcher = blocks, searcher


class LandmarkMemory:
    """The memory of all layers on this rank; the `retrieval` of a landmark model's layers.

    model: a landmark causal LM. sp: the ranks that share the memory. reserve: how many tokens will be read, if known.
    """

    def __init__(self, model: Any, config: RetrievalConfig, sp: SequenceParallel, *, reserve: int = 0) -> None:
        self.config, self.block = config, int(model.config.landmark_block)
        self.stride = self.block + 1
        self.rank, self.world = sp.rank, sp.world
        self._sp = sp
        self._decoder = model.model
        # Tokens of a window, landmarks counted.
        self.window = window_blocks(config, self.block) * self.stride
        self.slots = Slots(config, self.block)
        # Stingy positions are few: their angles are computed once, (cos, sin) [1, reach, D].
        self._reach = self.slots.window_start(0) + self.window if self.slots.stingy else None
        self._tables: dict[torch.dtype, tuple[Tensor, Tensor]] = {}
        # Here, and not in the middle of a text.
        check_machine(config)
        self._home = _home(config, self.rank, model.device)
        self._reserve = -(-reserve // (self.block * self.world))
        self._layers: dict[int, _Layer] = {}
        # Places count landmarks: of the next token, and of the window's first one.
        self.place = self.start = 0

    # How much there is.

    @property
    def blocks(self) -> int:
        """Past blocks behind the window, over all ranks."""
        return self.start // self.stride

    @property
    def device_bytes(self) -> int:
        """What stays on the device between two pieces: windows, and blocks where those are kept there."""
        return sum(one.key.nbytes + one.value.nbytes + one.blocks.device_bytes for one in self._layers.values())

    @property
    def bytes(self) -> int:
        """What keys and values take on this rank, wherever they are."""
        windows = sum(one.key.nbytes + one.value.nbytes for one in self._layers.values())
        return windows + sum(one.blocks.bytes for one in self._layers.values())

    # Reading.

    def next_piece(self, tokens: int) -> tuple[int, list[bool]]:
        """How many of `tokens` ordinary tokens can be read at once, and for each place up to there whether it is a
        landmark's. A landmark is read with the token behind it, or before its window ends."""
        if self.place - self.start == self.window:
            self._turn()
        flags: list[bool] = []
        left, room = tokens, self.window - (self.place - self.start)
        while room and (left or not flags):
            landmark = (self.place + len(flags)) % self.stride == self.block
            if not landmark and not left:
                break
            flags.append(landmark)
            left -= not landmark
            room -= 1
        return tokens - left, flags

    def advance(self, places: int) -> None:
        """All layers have read so many places."""
        self.place += places

    def rewind(self, tokens: int) -> int:
        """Forget all but whole windows within the first `tokens`; returns how many tokens are left. The same on each
        rank.

        Raises ValueError for a negative number.
        """
        if tokens < 0:
            raise ValueError(f"a text is kept up to a number of tokens from 0 on, got {tokens}: give where to go on.")
        windows = min(tokens // self.block * self.stride, self.start) // self.window
        self.place = self.start = windows * self.window
        held = len(range(self.rank, self.blocks, self.world))
        for layer in self._layers.values():
            layer.blocks.cut(held)
            layer.searcher.cut(held)
        return self.blocks * self.block

    def attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *, scale: float | None) -> Tensor:
        """Attention of the next tokens over the window, themselves included, and the blocks that they retrieve.

        query: [B, Hq, n, D]; key, value: [B, Hkv, n, D], without positions, the same on every rank. Returns
        [B, n, Hq, D]. Collective where the memory is shared.
        """
        # Sums are kept wide: autocast would round what meets them.
        with torch.autocast(query.device.type, enabled=False):
            return self._attend(module, query, key, value, scale=scale)

    # Inside.

    def _attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *, scale: float | None) -> Tensor:
        layer = self._layer(module, key)
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        first = self.place - self.start
        stop = first + query.shape[2]
        layer.key[:, :, first:stop], layer.value[:, :, first:stop] = key, value
        rotate = self._rotation(module)
        origin = self.slots.window_start(self.blocks)
        places = torch.arange(origin, origin + stop, device=query.device)
        turned = rotate(query, places[None, first:])
        keys = rotate(layer.key[:, :, :stop], places[None])
        out, lse = window_attention(turned, keys, layer.value[:, :, :stop], block=self.block, scale=scale)
        if self.blocks:
            for part, part_lse in self._retrieve(layer, turned, rotate, scale):
                merge_(out, lse, part, part_lse)
        return out.transpose(1, 2).to(query.dtype)

    def _retrieve(self, layer: _Layer, query: Tensor, rotate: Rotation, scale: float) -> list[tuple[Tensor, Tensor]]:
        """(out, lse) of every rank over the blocks that it holds among the chosen ones."""
        chosen = layer.searcher.choose(query, self.blocks, rotate, scale)
        slots = self.slots.of_retrieved(chosen, self.blocks)
        here = torch.where(chosen % self.world == self.rank, chosen // self.world, -1)

        def fetch(rows: Tensor, blocks: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
            key, value = layer.blocks.take(rows, blocks)
            places = at[:, None] * self.stride + torch.arange(self.stride, device=at.device)
            return rotate(key[:, None], places)[:, 0], value

        shape = query.shape[:3]
        out, lse = retrieved_attention(
            query, here.expand(*shape, -1), slots.expand(*shape, -1), fetch, key_heads=layer.key.shape[1],
            block=self.block, scale=scale,
        )  # fmt: skip
        if self.world == 1:
            return [(out, lse)]
        parts = self._sp.gather(torch.cat((out, lse[..., None]), dim=-1))
        return [(part[..., :-1].contiguous(), part[..., -1].contiguous()) for part in parts]

    def _turn(self) -> None:
        """The window is full: its blocks become past ones, each on the rank whose turn it is."""
        first, count = self.blocks, self.window // self.stride
        mine = [number for number in range(count) if (first + number) % self.world == self.rank]
        for layer in self._layers.values():
            if not mine:
                continue
            key, value = (x.view(-1, count, self.stride, x.shape[-1])[:, mine] for x in (layer.key, layer.value))
            layer.blocks.append(key, value)
            layer.searcher.added(key[:, :, self.block])
        self.start += self.window

    def _layer(self, module: nn.Module, key: Tensor) -> _Layer:
        index = module.layer_idx
        assert isinstance(index, int)
        if index not in self._layers:
            blocks = Blocks(
                key.shape[0] * key.shape[1], self.block, key.shape[3], dtype=key.dtype, device=key.device,
                home=self._home.of_layer(index), reserve=self._reserve,
            )  # fmt: skip
            searcher = make_searcher(
                self.config, blocks, self.slots, sp=self._sp, stride=self.stride, rotate=self._rotation(module)
            )
            self._layers[index] = _Layer(key, self.window, blocks, searcher)
        return self._layers[index]

    def _rotation(self, module: nn.Module) -> Rotation:
        apply = sys.modules[type(module).__module__].apply_rotary_pos_emb
        # Not the memory itself: a searcher keeps the function, and a cycle would keep the memory and its files.
        angles, tables, reach = self._decoder.rotary_emb, self._tables, self._reach

        def rotate(x: Tensor, places: Tensor) -> Tensor:
            """x [B, H, n, D] at places, int64 [B or 1, n]."""
            if reach is None:
                cos, sin = angles(x, places)
            else:
                if x.dtype not in tables:
                    tables[x.dtype] = angles(x[:1], torch.arange(reach, device=x.device)[None])
                cos, sin = (table[0][places] for table in tables[x.dtype])
            turned: Tensor = apply(x, x[:, :1], cos, sin)[0]
            return turned

        return rotate


def check_machine(config: RetrievalConfig) -> None:
    """ValueError where this machine lacks what searches, or a folder that can be written to."""
    if config.search.startswith("faiss"):
        check_search(config)
    if config.keep == "file":
        FileHome(Path(str(config.folder)), "check").check()


def _home(config: RetrievalConfig, rank: int, device: torch.device) -> Home:
    if config.keep == "device":
        return DeviceHome(device)
    return Home(torch.device("cpu")) if config.keep == "cpu" else FileHome(Path(str(config.folder)), f"rank{rank}")
