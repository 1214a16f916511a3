"""How a sequence is cut into chunks, and which rank owns which.

A layout is a value: chunk c is the `range` of global positions `chunks[c]`, and rank r owns the chunks
`r * chunks_per_rank` up to `(r + 1) * chunks_per_rank`, which lie one behind the other in its local tensors, in
ascending order of position. Chunks, not ranks, are the unit of every schedule: a mask drops the ones that nobody
needs, and cutting each of them further (`refine`) moves no token.

contiguous: rank r holds the r-th part of the sequence.
zigzag:     2P parts, rank r holds parts r and 2P-1-r (Zhu, ring-flash-attention; Llama 3, section 3.3.2), so that
            causal attention costs every rank the same.
striped:    rank r holds every P-th token (Brandon et al., arXiv 2311.09431).
balanced:   parts dealt out so that each rank has about the same unmasked area for the mask at hand.

Where the mask has landmarks, parts are cut between its blocks only, and striped deals stripes of whole blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from ringattn.sequence.landmarks import Blocks, Ints
from ringattn.sequence.mask import Mask
from ringattn.sequence.suggest import suggest

LAYOUTS = ("balanced", "contiguous", "striped", "zigzag")

# Balanced deals this many chunks to each rank: enough that documents of any lengths come out within a few percent
# (eight left up to 10 %), few enough for large kernel calls.
_BALANCED_CHUNKS = 12

# Stripes of landmark blocks that each rank gets: with more of them the ranks' work is more alike (it differs by one
# part in so many), with fewer the kernel calls are larger.
_STRIPES = 8


@dataclass(frozen=True)
class Layout:
    """Chunks of a sequence of `length` tokens over `world` ranks; see the module's text.

    blocks: the landmark blocks that no chunk's border cuts, here or where chunks are cut further.
    """

    name: str
    length: int
    world: int
    chunks: tuple[range, ...]
    blocks: Blocks | None = None

    def __post_init__(self) -> None:
        if self.world < 1 or len(self.chunks) % self.world:
            raise ValueError(
                f"a layout has the same number of chunks on each rank, got {len(self.chunks)} chunks "
                f"for {self.world} ranks; use empty ranges where a rank has fewer"
            )
        held = sum(len(chunk) for chunk in self.chunks)
        if held != self.length:
            raise ValueError(f"the chunks of a layout hold every position once: {held} held of {self.length}")
        for rank in range(self.world):
            previous = -1
            for chunk in self.of(rank):
                if len(chunk):
                    if chunk[0] <= previous:
                        raise ValueError(
                            f"the chunks of rank {rank} must ascend, but {chunk} follows position {previous}"
                        )
                    previous = chunk[-1]
        if self.blocks is not None:
            self.blocks.check(self.chunks, self.length)

    @property
    def chunks_per_rank(self) -> int:
        return len(self.chunks) // self.world

    def of(self, rank: int) -> tuple[range, ...]:
        """The chunks of `rank`, in the order of its local tensors."""
        each = self.chunks_per_rank
        return self.chunks[rank * each : (rank + 1) * each]

    def local_length(self, rank: int) -> int:
        return sum(len(chunk) for chunk in self.of(rank))

    def positions(self, rank: int) -> Ints:
        """int64 [n]: the global position of each token of `rank`, ascending."""
        return positions_of(self.of(rank))

    def refine(self, factor: int) -> Layout:
        """Each chunk cut into `factor` pieces; every token stays where it is."""
        if factor == 1:
            return self
        pieces = tuple(piece for chunk in self.chunks for piece in self._cut(chunk, factor))
        return replace(self, chunks=pieces)

    def fit(self, blocks: Blocks | None) -> Layout:
        """The same chunks, known to hold `blocks` whole; ValueError where one of them is cut."""
        return self if self.blocks == blocks else replace(self, blocks=blocks)

    def _cut(self, whole: range, parts: int) -> list[range]:
        return split(whole, parts) if self.blocks is None else self.blocks.cut(whole, parts, self.length)


def positions_of(chunks: Sequence[range]) -> Ints:
    """int64 [n]: the positions of `chunks`, one chunk behind the other."""
    if not chunks:
        return np.empty(0, dtype=np.int64)
    return np.concatenate([np.arange(c.start, c.stop, c.step, dtype=np.int64) for c in chunks])


def split(whole: range, parts: int) -> list[range]:
    """`whole` cut into `parts` consecutive ranges whose lengths differ by one at most, longer ones first."""
    size, longer = divmod(len(whole), parts)
    pieces, start = [], 0
    for part in range(parts):
        stop = start + size + (part < longer)
        pieces.append(whole[start:stop])
        start = stop
    return pieces


@lru_cache(maxsize=256)
def make_layout(name: str, length: int, world: int, mask: Mask | None = None) -> Layout:
    """The layout called `name`. `mask` matters to `balanced`, which without one balances causal attention, and where
    it has landmarks, whose blocks stay whole."""
    if length < 0:
        raise ValueError(f"a sequence has at least 0 tokens, got length {length}")
    if world < 1:
        raise ValueError(f"a layout needs at least 1 rank, got {world}")
    blocks = None if mask is None else mask.blocks
    if mask is not None and blocks is not None:
        mask.check(length, length)

    def cut(whole: range, parts: int) -> list[range]:
        return split(whole, parts) if blocks is None else blocks.cut(whole, parts, length)

    if name == "contiguous":
        chunks = [piece for part in cut(range(length), world) for piece in cut(part, 2)]
    elif name == "zigzag":
        parts = cut(range(length), 2 * world)
        chunks = [part for rank in range(world) for part in (parts[rank], parts[-1 - rank])]
    elif name == "striped" and blocks is not None:
        parts = cut(range(length), _STRIPES * world)
        chunks = [part for rank in range(world) for part in parts[rank::world]]
    elif name == "striped":
        chunks = [piece for rank in range(world) for piece in split(range(rank, max(rank, length), world), 2)]
    elif name == "balanced":
        chunks = _balanced_chunks(cut(range(length), _BALANCED_CHUNKS * world), length, world, mask or Mask())
    else:
        raise ValueError(f"unknown layout {name!r}{suggest(name, LAYOUTS)}; there are {', '.join(LAYOUTS)}")
    return Layout(name, length, world, tuple(chunks), blocks)


def _balanced_chunks(parts: list[range], length: int, world: int, mask: Mask) -> list[range]:
    """Longest-processing-time dealing on two loads at once.

    A rank's cost is the area of its queries' rows where queries stay (ring) and of its keys' columns where keys
    stay (TokenRing), so both are evened out: the heaviest chunk left goes to the rank whose larger load ends lowest,
    among the ranks that still have room. Then chunks are swapped while that helps.
    """
    mask.check(length, length)
    rows, columns = _areas(parts, length, mask)
    total = max(float(rows.sum()), 1.0)
    weight = np.stack([rows, columns], axis=1) / total
    load = np.zeros((world, 2))
    dealt = np.empty((world, _BALANCED_CHUNKS), dtype=np.int64)
    count = np.zeros(world, dtype=np.int64)
    for part in sorted(range(len(parts)), key=lambda c: (-weight[c].max(), c)):
        after = np.where(count < _BALANCED_CHUNKS, (load + weight[part]).max(axis=1), np.inf)
        rank = int(after.argmin())
        dealt[rank, count[rank]] = part
        count[rank] += 1
        load[rank] += weight[part]
    _swap_while_better(dealt, weight)
    return [parts[part] for rank in range(world) for part in sorted(dealt[rank])]


def _swap_while_better(dealt: np.ndarray, weight: np.ndarray) -> None:
    """Swap chunks between pairs of ranks while that lowers the sum of the squares of all loads.

    dealt: [ranks, chunks of each]; weight: [chunks, 2]. In place.
    """
    load = weight[dealt].sum(axis=1)
    for _ in range(4 * dealt.size):
        better = False
        for rank in np.argsort(-load.max(axis=1)):
            # moved[other, b, a]: what this rank gains by giving its chunk a for the other's chunk b.
            moved = weight[dealt][:, :, None] - weight[dealt[rank]][None, None]
            gap = load[rank] - load
            change = (moved * (moved + gap[:, None, None])).sum(axis=-1)
            change[rank] = 0.0
            other, b, a = np.unravel_index(change.argmin(), change.shape)
            if change[other, b, a] < -1e-12:
                load[rank] += moved[other, b, a]
                load[other] -= moved[other, b, a]
                dealt[rank, a], dealt[other, b] = dealt[other, b], dealt[rank, a]
                better = True
        if not better:
            return


def _areas(parts: list[range], length: int, mask: Mask) -> tuple[np.ndarray, np.ndarray]:
    """The unmasked area of each part's rows (as queries) and of its columns (as keys)."""
    start, stop = mask.intervals(np.arange(length, dtype=np.int64), queries=length, keys=length)
    seen_by = np.zeros(length + 1, dtype=np.int64)
    np.add.at(seen_by, start, 1)
    np.add.at(seen_by, stop, -1)
    rows = _prefix(stop - start)
    columns = _prefix(np.cumsum(seen_by[:-1]))
    bounds = np.asarray([part.start for part in parts] + [length])
    return np.diff(rows[bounds]), np.diff(columns[bounds])


def _prefix(values: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(values)])
