"""The tokens right before each chunk, for the short causal convolutions of linear attentions.

Only these rows travel, width - 1 for each chunk at most, in the dtype of the input. Their gradients go back the same
way, and are summed in fp32 at least, since a token may stand before several chunks that are shorter than the width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ringattn.attention import SequenceParallel
from ringattn.kernels.kernel import sum_dtype
from ringattn.runtime.arguments import Options
from ringattn.sequence.halo import HaloRows, halo_rows
from ringattn.sequence.layout import Layout


def with_halo(
    x: Tensor, width: int, layout: Layout, sp: SequenceParallel, documents: Sequence[int] | Tensor | None = None
) -> list[Tensor]:
    """Each local chunk with its halo in front: [B, width - 1 + tokens, C] for each of `layout.of(sp.rank)`.

    A convolution of `width` taps without padding gives as many tokens as the chunk has. For the arguments see `halo`.
    """
    front = halo(x, width, layout, sp, documents)
    chunks = x.split([len(chunk) for chunk in layout.of(sp.rank)], dim=1)
    return [torch.cat((rows, chunk), dim=1) for rows, chunk in zip(front, chunks)]


def halo(
    x: Tensor, width: int, layout: Layout, sp: SequenceParallel, documents: Sequence[int] | Tensor | None = None
) -> Tensor:
    """The width - 1 tokens before each local chunk, in the order of the sequence. Collective; differentiable once.

    x: [B, n, C], this rank's tokens under `layout`.
    documents: cumulative lengths of packed documents, from 0 to the length. Tokens before the document of a chunk's
        first token read as zeros. A document that begins inside a chunk is the convolution's to look after.

    Returns [chunks, B, width - 1, C], zeros where there is no such token, and before a chunk without tokens.

    Raises ValueError (on every rank) where an argument does not fit, or where ranks make different calls.
    """
    call: _Call | None = None
    refused: ValueError | None = None
    try:
        call = _call(x, width, layout, sp, documents)
    except ValueError as error:
        refused = error
    sp.agree_as_set({} if call is None else call.terms, refused)
    assert call is not None
    edge = x.index_select(1, _index(call.edge, x))
    found: Tensor = _Halo.apply(edge, call)
    return found


@dataclass(frozen=True)
class _Call:
    """edge: the local rows that some halo reads, ascending. moves: those that touch this rank, with rows of the source
    counted within its edge."""

    sp: SequenceParallel
    chunks: int
    width: int
    edge: tuple[int, ...]
    moves: tuple[HaloRows, ...]
    terms: dict[str, str]


def _call(
    x: Tensor, width: int, layout: Layout, sp: SequenceParallel, documents: Sequence[int] | Tensor | None
) -> _Call:
    if x.ndim != 3:
        raise ValueError(f"x is [B, n, C], got {list(x.shape)}; flatten heads into channels")
    if layout.world != sp.world:
        raise ValueError(f"the layout is for {layout.world} ranks, but the group has {sp.world}")
    sp.check_shard("x", x.shape[1], layout)
    # Before ranks agree, since a rank cannot leave afterwards.
    sp.exchanges("x", x.device, backward=False)
    mask = Options(documents=documents).mask()
    mask.check(layout.length, layout.length)
    rows = halo_rows(layout, width, mask.documents)
    edge = tuple(sorted({row for move in rows if move.source == sp.rank for row in move.taken}))
    place = {row: number for number, row in enumerate(edge)}
    moves = tuple(
        move._replace(taken=tuple(place[row] for row in move.taken)) if move.source == sp.rank else move
        for move in rows
        if sp.rank in (move.source, move.target)
    )
    terms = {
        "the convolution's width": str(width),
        "its input [B, C]": f"[{x.shape[0]}, {x.shape[2]}] {str(x.dtype).removeprefix('torch.')}",
        "the layout": f"{layout.name} of {layout.length} tokens {_digits(layout.chunks)}",
        "the documents": f"{len(mask.documents) - 1} {_digits(mask.documents)}" if mask.documents else "none",
    }
    return _Call(sp, layout.chunks_per_rank, width, edge, moves, terms)


def _digits(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:8]


class _Halo(torch.autograd.Function):
    """From the rows that halos read to the halos, and back."""

    @staticmethod
    def forward(ctx: Any, edge: Tensor, call: _Call) -> Tensor:
        ctx.call = call
        rows = edge.movedim(1, 0)
        batch, channels = rows.shape[1:]
        placed = rows.new_zeros((call.chunks * (call.width - 1), batch, channels))
        sends = {}
        receives = {}
        for move in call.moves:
            if move.source == call.sp.rank:
                taken = rows.index_select(0, _index(move.taken, rows))
                if move.target == call.sp.rank:
                    placed[_index(move.placed, rows)] = taken
                else:
                    sends[move.target] = taken
            else:
                receives[move.source] = rows.new_empty((len(move.placed), batch, channels))
        _exchange(call, receives, sends, edge, backward=False)
        for move in call.moves:
            if move.source in receives and move.target == call.sp.rank:
                placed[_index(move.placed, rows)] = receives[move.source]
        return placed.view(call.chunks, call.width - 1, batch, channels).movedim(2, 1).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        call: _Call = ctx.call
        batch, channels = grad.shape[1], grad.shape[3]
        placed = grad.movedim(1, 2).reshape(-1, batch, channels)
        of_edge = placed.new_zeros((len(call.edge), batch, channels), dtype=sum_dtype(grad.dtype))
        sends = {}
        receives = {}
        for move in call.moves:
            if move.target == call.sp.rank:
                given = placed.index_select(0, _index(move.placed, placed))
                if move.source == call.sp.rank:
                    of_edge.index_add_(0, _index(move.taken, placed), given.to(of_edge.dtype))
                else:
                    sends[move.source] = given
            else:
                receives[move.target] = placed.new_empty((len(move.taken), batch, channels))
        _exchange(call, receives, sends, grad, backward=True)
        for move in call.moves:
            if move.target in receives and move.source == call.sp.rank:
                of_edge.index_add_(0, _index(move.taken, placed), receives[move.target].to(of_edge.dtype))
        return of_edge.to(grad.dtype).movedim(0, 1), None


def _exchange(
    call: _Call, receives: dict[int, Tensor], sends: dict[int, Tensor], like: Tensor, *, backward: bool
) -> None:
    exchanges = call.sp.exchanges("a convolution's halo,", like.device, backward=backward)
    if exchanges is not None:
        exchanges.exchange(receives, sends, step=0)


def _index(rows: tuple[int, ...], like: Tensor) -> Tensor:
    return _index_on(rows, like.device)


@lru_cache(maxsize=256)
def _index_on(rows: tuple[int, ...], device: torch.device) -> Tensor:
    """Kept, since a copy to a GPU would make the host wait for it in every layer."""
    # Whoever asks first may be in inference mode, whose tensors no later training could use.
    with torch.inference_mode(False):
        return torch.tensor(rows, dtype=torch.int64, device=device)
