"""Landmarks searched by faiss (J. Johnson et al., "Billion-scale similarity search with GPUs", arXiv 1702.08734), which
needs no look at each of them where its index is a graph.

That stingy positions put all older blocks in one place is what makes an index of them possible (arXiv 2305.16300,
section 3.4): their keys are put in as they stand there. The last k blocks are searched exactly beside it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ringattn.attention import SequenceParallel
from ringattn.models.landmark.blocks import Blocks
from ringattn.models.landmark.search import Rotation, Searcher, ranked, scores
from ringattn.models.landmark.slots import Slots
from ringattn.settings.retrieval import RetrievalConfig

# Landmarks that are put into an index at one time.
_TOGETHER = 1024


class FaissSearcher(Searcher):
    """An index for each row and key head, in the memory of the host."""

    def __init__(
        self,
        config: RetrievalConfig,
        blocks: Blocks,
        slots: Slots,
        *,
        sp: SequenceParallel,
        stride: int,
        rotate: Rotation,
    ) -> None:
        super().__init__(config, blocks, slots, sp=sp, stride=stride)
        self._rotate = rotate
        self._factory = _factory(config)
        self._indices: list[Any] = []

    def added(self, landmarks: Tensor) -> None:
        rows, count, dim = landmarks.shape
        if not self._indices:
            self._indices = [make_index(self._factory, dim) for _ in range(rows)]
        known = self._indices[0].ntotal
        numbers = torch.arange(known, known + count, device=landmarks.device) * self.world + self.rank
        # Where they stand once they are older than the last k; with plain positions, for ever.
        slots = torch.zeros_like(numbers) if self.slots.stingy else numbers
        turned = self._rotate(landmarks[:, None], (slots * self.stride + self.stride - 1)[None])[:, 0]
        for index, keys in zip(self._indices, turned.float().cpu()):
            index.add(keys.numpy())

    def cut(self, count: int) -> None:
        if not self._indices or self._indices[0].ntotal == count:
            return
        # Not every index can forget some of its keys.
        self._indices = []
        for start in range(0, count, _TOGETHER):
            self.added(self.blocks.landmarks(start, min(start + _TOGETHER, count)))

    def best_here(self, query: Tensor, blocks: int, rotate: Rotation, scale: float) -> Tensor:
        batch, heads, rows, dim = query.shape
        k, held, searched = self.config.k, self.blocks.count, self.searched(blocks)
        best = query.new_full((batch, heads, rows, k), torch.iinfo(torch.int64).min, dtype=torch.int64)
        # What the index knows of the last k stands in another place: those that are searched are met one by one.
        older = min(searched, len(range(self.rank, blocks - k, self.world))) if self.slots.stingy else searched
        if older:
            wanted = min(k + held - older, held)
            grouped = query.float().reshape(len(self._indices), -1, dim).cpu()
            found = [index.search(of_row.numpy(), wanted) for index, of_row in zip(self._indices, grouped)]
            score, place = (
                torch.stack([torch.from_numpy(pair[which]) for pair in found]).to(query.device) for which in (0, 1)
            )
            order = ranked(score * scale, place.clamp(min=0) * self.world + self.rank)
            order = order.masked_fill((place < 0) | (place >= older), torch.iinfo(torch.int64).min)
            best = torch.cat((best, order.view(batch, heads, rows, wanted)), dim=-1)
        if older < searched:
            ((keys, numbers),) = self.landmarks(searched, batch, blocks, rotate, start=older)
            best = torch.cat((best, ranked(scores(query, keys, scale), numbers)), dim=-1)
        return best.topk(k, dim=-1).values


def check_index(config: RetrievalConfig) -> None:
    """ValueError where faiss can't search so."""
    make_index(_factory(config), 8)


def _factory(config: RetrievalConfig) -> str:
    return config.search.partition(":")[2] or "Flat"


def make_index(factory: str, dim: int) -> Any:
    """An empty index for inner products. ValueError where faiss is missing, or can't make one that serves."""
    try:
        import faiss
    except ImportError:
        raise ValueError(
            "retrieval.search=faiss needs the package faiss, which is not installed: pip install 'ringattn[faiss]', or "
            "write retrieval.search=exact."
        ) from None
    try:
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise ValueError(
            f"faiss makes no index of {factory!r} ({str(error).splitlines()[-1]}): write "
            "retrieval.search=faiss:Flat or faiss:HNSW32."
        ) from None
    return index
