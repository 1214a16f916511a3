"""How a rank's tokens are cut into pieces that are computed in parallel.

A rank holds runs of consecutive positions of the sequence. Each run is cut into pieces of one size, a power of two, and
the last one is filled up with tokens that do nothing. Packed documents begin anywhere in a piece: tokens of two
documents do not see each other, the state that enters a piece reaches the tokens before the first start in it alone,
and what leaves it comes from the tokens after the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

# Tokens of a piece: within one, work grows with the square; between them, the state is read and written.
PIECE = 64


@dataclass(frozen=True, eq=False)
class Pieces:
    """N pieces of `size` tokens, of runs of `lengths` tokens.

    runs: for each piece, the run that it belongs to; those of a run follow each other.
    starts: bool [N, size], where a document begins; None where none does. The other masks then are None too:
    same: bool [N, size, size], two tokens are of one document.
    enters: bool [N, size], the entering state reaches the token. leaves: it reaches the leaving state.
    keeps: bool [N], no document begins in the piece.
    """

    lengths: tuple[int, ...]
    size: int
    runs: tuple[int, ...]
    starts: Tensor | None = None
    same: Tensor | None = None
    enters: Tensor | None = None
    leaves: Tensor | None = None
    keeps: Tensor | None = None

    @property
    def last_run(self) -> int:
        """The last run that has a token; the first where none has."""
        return max((number for number, length in enumerate(self.lengths) if length), default=0)

    def cut(self, x: Tensor, *, filler: float = 0.0) -> Tensor:
        """[B, n, ...] -> [B, N, size, ...]; a view where nothing has to be filled up."""
        parts = []
        for part in x.split(self.lengths, dim=1):
            more = -part.shape[1] % self.size
            parts.append(functional.pad(part, (*([0] * 2 * (x.ndim - 2)), 0, more), value=filler) if more else part)
        whole = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return whole.unflatten(1, (-1, self.size))

    def join(self, x: Tensor) -> Tensor:
        """[B, N, size, ...] -> [B, n, ...]."""
        flat = x.flatten(1, 2)
        filled = [length + -length % self.size for length in self.lengths]
        if filled == list(self.lengths):
            return flat
        parts = flat.split(filled, dim=1)
        return torch.cat([part[:, :length] for part, length in zip(parts, self.lengths, strict=True)], dim=1)


@lru_cache(maxsize=16)
def make_pieces(
    runs: tuple[range, ...], documents: tuple[int, ...] | None, device: torch.device, size: int = PIECE
) -> Pieces:
    """runs: the positions of this rank's tokens, in the order of its tensors. documents: cumulative lengths over the
    whole sequence. The first document's start is no start: what enters there is the state before the sequence."""
    longest = max((len(run) for run in runs), default=0)
    while size > 1 and size // 2 >= longest:
        size //= 2
    lengths = tuple(len(run) for run in runs)
    of_run = tuple(number for number, length in enumerate(lengths) for _ in range(-(-length // size)))
    begun = starts_in(documents, runs)
    if len(begun) == 0:
        return Pieces(lengths, size, of_run)
    firsts = np.asarray([start for run in runs for start in run[::size]], dtype=np.int64)
    ends = np.asarray([runs[number].stop for number in of_run], dtype=np.int64)
    # The tokens that fill a piece up are as its last one, and no start.
    places = firsts[:, None] + np.arange(size)
    filled = np.minimum(places, ends[:, None] - 1)
    document = np.searchsorted(begun, filled, side="right")
    before, last = np.searchsorted(begun, firsts, side="left"), document[:, -1]
    masks = (
        np.isin(filled, begun) & (places == filled),
        document[:, :, None] == document[:, None, :],
        document == before[:, None],
        document == last[:, None],
        before == last,
    )
    # Whoever asks first may be in inference mode, whose tensors no later training could use.
    with torch.inference_mode(False):
        return Pieces(lengths, size, of_run, *(torch.from_numpy(mask).to(device) for mask in masks))


def starts_in(documents: Sequence[int] | None, runs: Sequence[range]) -> np.ndarray:
    """int64: the positions in `runs` at which a document after the first one begins, ascending."""
    if documents is None:
        return np.empty(0, dtype=np.int64)
    begun = np.unique(np.asarray(documents[1:-1], dtype=np.int64))
    held = np.zeros(len(begun), dtype=bool)
    for run in runs:
        held |= (begun >= run.start) & (begun < run.stop)
    return begun[held & (begun > 0)]
