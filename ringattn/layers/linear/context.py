"""Where a mixer's tokens lie: all in one process, or spread over ranks. The one thing that sequence parallelism adds.

A mixer sees its tokens and, where it needs what came before them, asks its context: for the state that enters each run
of tokens, and for the few tokens before each run that a short convolution reads. Alone, there is one run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ringattn.attention import SequenceParallel
from ringattn.layers.linear.chunked import Entering
from ringattn.layers.linear.pieces import PIECE, Pieces, make_pieces
from ringattn.sequence.layout import Layout
from ringattn.sequence.mask import Mask


@dataclass(frozen=True, eq=False)
class Context:
    """Made by `alone` or `spread`.

    runs: the global positions of the local tokens, in their order. documents: cumulative lengths of packed documents.
    sp, layout: the ranks and how the sequence is cut, where there are several; route: how states travel between them.
    lower_bound: HGRN's and HGRN-2's of this layer, [channels], zeros where None.
    """

    runs: tuple[range, ...]
    documents: tuple[int, ...] | None = None
    sp: SequenceParallel | None = None
    layout: Layout | None = None
    route: str = "allgather"
    lower_bound: Tensor | None = None

    @classmethod
    def alone(cls, length: int, documents: Sequence[int] | Tensor | None = None) -> Context:
        """All `length` tokens in this process."""
        return cls((range(length),), _documents(documents, length))

    @classmethod
    def spread(
        cls,
        sp: SequenceParallel,
        length: int,
        documents: Sequence[int] | Tensor | None = None,
        *,
        route: str = "allgather",
    ) -> Context:
        """This rank's tokens of a sequence of `length`; the same on every rank.

        Raises:
            ValueError: a layout whose ranks do not hold runs of consecutive tokens; documents of another length.
        """
        bounds = _documents(documents, length)
        layout = sp.layout(length)
        if any(chunk.step != 1 and len(chunk) > 1 for chunk in layout.chunks):
            raise ValueError(
                "a linear attention passes its state from one run of consecutive tokens to the next, and in layout "
                f"{layout.name!r} neighbours lie on different ranks: use layout='zigzag', or 'balanced' or 'contiguous'"
            )
        if sp.world == 1:
            return cls((range(length),), bounds)
        return cls(layout.of(sp.rank), bounds, sp, layout, route)

    @property
    def length(self) -> int:
        """Tokens here."""
        return sum(len(run) for run in self.runs)

    def pieces(self, device: torch.device, size: int = PIECE) -> Pieces:
        return make_pieces(self.runs, self.documents, device, size)

    def positions(self, device: torch.device) -> Tensor:
        """int64 [n], global."""
        parts = [torch.arange(run.start, run.stop, device=device) for run in self.runs]
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64, device=device)

    def entering(self) -> Entering | None:
        """From the effects of this rank's runs, the states that enter them; None where nothing lies elsewhere."""
        if self.sp is None or self.layout is None:
            return None
        from ringattn.layers.linear.prefix import entering_states

        sp, layout, route = self.sp, self.layout, self.route
        return lambda effects: entering_states(effects, layout, sp, route=route)

    def check(self, x: Tensor) -> None:
        """Raise ValueError where x [B, n, ...] does not hold this context's tokens."""
        if x.ndim < 2 or x.shape[1] != self.length:
            raise ValueError(
                f"a mixer's tokens are those of its context, {self.length} here, got the shape {list(x.shape)}: give "
                "[B, n, ...], and make the context for the length of the whole sequence"
            )


def _documents(documents: Sequence[int] | Tensor | None, length: int) -> tuple[int, ...] | None:
    if documents is None:
        return None
    bounds = tuple(int(bound) for bound in documents)
    Mask(documents=bounds).check(length, length)
    return bounds
