"""The input of a comparison, the same whatever the ranks, and the results that it should give."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
import torch.distributed as dist
from ringattn.launch.compare.settings import CompareConfig
from torch import Tensor

from ringattn.kernels.cpu_flash import CpuFlash
from ringattn.measure import Shards
from ringattn.sequence.layout import make_layout
from ringattn.sequence.mask import Ints
from ringattn.virtual import VirtualWorld

# Tokens are made so many at a time: a rank makes those blocks that hold some of its own, and keeps these.
_BLOCK = 4096


def make_shards(config: CompareConfig, device: torch.device, *, rank: int, world: int) -> Shards:
    """This rank's part of the input."""
    layout = make_layout(config.layout, config.length, world, config.mask)
    made = {name: x.to(device) for name, x in _tensors(config, layout.positions(rank)).items()}
    return Shards(**made, length=config.length, mask=config.mask)


def _tensors(config: CompareConfig, positions: Ints) -> dict[str, Tensor]:
    """[B, n, H, D] of each tensor at `positions`, ascending; normally distributed."""
    heads = {
        "query": config.query_heads,
        "key": config.key_heads,
        "value": config.key_heads,
        "grad_out": config.query_heads,
    }
    where = torch.from_numpy(positions)
    found = {}
    for name, number in heads.items():
        pieces = [torch.empty(config.batch, 0, number, config.head_dim, dtype=getattr(torch, config.dtype))]
        for block in torch.unique(where // _BLOCK).tolist():
            # All blocks are whole, so that a token is the same at any length.
            seed = int.from_bytes(hashlib.sha256(f"{config.seed} {name} {block}".encode()).digest()[:7], "little")
            shape = (config.batch, _BLOCK, number, config.head_dim)
            whole = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
            inside = where[where // _BLOCK == block] - block * _BLOCK
            pieces.append(whole.index_select(1, inside).to(pieces[0].dtype))
        found[name] = torch.cat(pieces, dim=1)
    return found


class Reference:
    """Attention of the whole sequence in fp64, by one device alone; each rank keeps its own part.

    Collective: heads are dealt out over the ranks, and each tells the others its results.
    """

    def __init__(self, config: CompareConfig, *, rank: int, world: int) -> None:
        everything = make_layout("contiguous", config.length, 1).positions(0)
        whole = _tensors(config, everything)
        mine = torch.from_numpy(make_layout(config.layout, config.length, world, config.mask).positions(rank))
        ratio = config.query_heads // config.key_heads
        solved = {head: _solve(whole, head, ratio, config) for head in range(rank, config.key_heads, world)}
        own: dict[str, list[Tensor]] = {"out": [], "dq": [], "dk": [], "dv": []}
        self.largest = dict.fromkeys(own, 0.0)
        for head in range(config.key_heads):
            for name, kept in own.items():
                heads = ratio if name in ("out", "dq") else 1
                shape = (config.batch, config.length, heads, config.head_dim)
                x = solved[head][name] if head in solved else torch.empty(shape, dtype=torch.float64)
                dist.broadcast(x, src=head % world)
                kept.append(x.index_select(1, mine))
                self.largest[name] = max(self.largest[name], x.abs().max().item())
        self.own = {name: torch.cat(parts, dim=2) for name, parts in own.items()}

    def error(self, results: Mapping[str, Tensor]) -> dict[str, float]:
        """The largest difference in this rank's part of each tensor, relative to the largest value of the whole."""
        found = {}
        for name, expected in self.own.items():
            off = (results[name].to("cpu", torch.float64) - expected).abs()
            found[name] = off.max().item() / (self.largest[name] or 1.0) if off.numel() else 0.0
        return found


def _solve(whole: Mapping[str, Tensor], head: int, ratio: int, config: CompareConfig) -> dict[str, Tensor]:
    """One key head with its query heads."""
    cut = {
        name: x[:, :, head : head + 1] if name in ("key", "value") else x[:, :, head * ratio : (head + 1) * ratio]
        for name, x in whole.items()
    }
    query, key, value = (cut[name].double().requires_grad_() for name in ("query", "key", "value"))
    alone = VirtualWorld(1, "ring", "contiguous", kernel=CpuFlash.name)
    mask = config.mask
    (out,) = alone.attention(query, key, value, causal=mask.causal, window=mask.window, documents=mask.documents)
    grads = torch.autograd.grad(out, (query, key, value), cut["grad_out"].double())
    return {name: x.detach().contiguous() for name, x in zip(("out", "dq", "dk", "dv"), (out, *grads))}
