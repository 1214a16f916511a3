"""Which past blocks a query retrieves: those whose landmarks it meets best (arXiv 2305.16300, section 3.2).

`token_and_head` chooses for each token in each head. `head` shares a head's choice among the tokens that are read
together, and `token` a token's among its heads: then a landmark counts by the largest share that it has in any of their
softmaxes over all landmarks (the reference implementation's rule), which takes two passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ringattn.attention import SequenceParallel
from ringattn.kernels.kernel import sum_dtype
from ringattn.models.landmark.blocks import Blocks
from ringattn.models.landmark.slots import Slots
from ringattn.settings.retrieval import RetrievalConfig

# Landmarks whose scores exist at one time.
_CHUNK = 128

Rotation = Callable[[Tensor, Tensor], Tensor]


class Searcher:
    """Exact search by matrix products over all landmarks, of which this rank holds every world-th."""

    def __init__(
        self, config: RetrievalConfig, blocks: Blocks, slots: Slots, *, sp: SequenceParallel, stride: int
    ) -> None:
        self.config, self.blocks, self.slots, self.stride = config, blocks, slots, stride
        self.sp, self.rank, self.world = sp, sp.rank, sp.world

    def added(self, landmarks: Tensor) -> None:
        """Blocks were added, whose landmarks' keys are [rows, m, D]."""

    def choose(self, query: Tensor, blocks: int, rotate: Rotation, scale: float) -> Tensor:
        """The blocks that are retrieved, int64 [B, Hq or 1, n or 1, min(k, blocks)], ascending; the same on all ranks.

        query: [B, Hq, n, D], with positions. blocks: how many there are over all ranks.
        """
        best = self.best_here(query, blocks, rotate, scale)
        if self.world > 1:
            best = torch.cat(self.sp.gather(best), dim=-1)
        best = best.topk(min(self.config.k, blocks), dim=-1).values
        return (best & _NUMBER).sort(dim=-1).values

    def best_here(self, query: Tensor, blocks: int, rotate: Rotation, scale: float) -> Tensor:
        """The best of this rank's landmarks as `ranked`, int64 [B, Hq or 1, n or 1, k]; the lowest where there are
        fewer."""
        shared = {"token_and_head": None, "head": 2, "token": 1}[self.config.kind]
        total = None
        if shared is not None:
            total = query.new_full(query.shape[:3], float("-inf"), dtype=sum_dtype(query.dtype))
            for score, _ in self.scores(query, blocks, rotate, scale):
                total = torch.logaddexp(total, score.logsumexp(dim=-1))
            if self.world > 1:
                total = torch.stack(self.sp.gather(total)).logsumexp(dim=0)
        shape = [1 if dim == shared else size for dim, size in enumerate(query.shape[:3])]
        best = query.new_full((*shape, self.config.k), torch.iinfo(torch.int64).min, dtype=torch.int64)
        for score, numbers in self.scores(query, blocks, rotate, scale):
            if total is not None and shared is not None:
                score = (score - total[..., None]).amax(dim=shared, keepdim=True)
            best = torch.cat((best, ranked(score, numbers)), dim=-1).topk(self.config.k, dim=-1).values
        return best

    def scores(self, query: Tensor, blocks: int, rotate: Rotation, scale: float) -> Iterator[tuple[Tensor, Tensor]]:
        """Scores [B, Hq, n, c] of this rank's landmarks in turn, and the numbers of their blocks, int64 [c]."""
        for start in range(0, self.blocks.count, _CHUNK):
            stop = min(start + _CHUNK, self.blocks.count)
            numbers = torch.arange(start, stop, device=query.device) * self.world + self.rank
            yield self.score(query, self.blocks.landmarks(start, stop), numbers, blocks, rotate, scale), numbers

    def score(
        self, query: Tensor, keys: Tensor, numbers: Tensor, blocks: int, rotate: Rotation, scale: float
    ) -> Tensor:
        """Scores [B, Hq, n, c] of landmarks' keys [rows, c, D] of the blocks `numbers`, int64 [c]."""
        wide = sum_dtype(query.dtype)
        batch, heads, rows, dim = query.shape
        keys = keys.reshape(batch, -1, *keys.shape[1:])
        places = self.slots.of_searched(numbers, blocks) * self.stride + self.stride - 1
        keys = rotate(keys, places[None]).to(wide)
        found = query.to(wide).reshape(batch, keys.shape[1], -1, dim) @ keys.transpose(-1, -2)
        return found.mul_(scale).view(batch, heads, rows, -1)


class Recent(Searcher):
    """The k last blocks whatever the query: a sliding window that costs what retrieval costs, to compare it with."""

    def choose(self, query: Tensor, blocks: int, rotate: Rotation, scale: float) -> Tensor:
        return torch.arange(max(0, blocks - self.config.k), blocks, device=query.device).expand(len(query), 1, 1, -1)


def ranked(score: Tensor, numbers: Tensor) -> Tensor:
    """Scores [..., c] of blocks `numbers` (int64 [..., c]) as int64 that order like them; of blocks that score alike,
    the later one is better.

    In the first layer all landmarks have one key, and those that are searched at one place score alike: without a rule
    for that, what is retrieved would depend on how many ranks there are. The last four bits of fp32 are rounding.
    """
    bits = score.float().contiguous().view(torch.int32)
    ascending = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits) >> 4
    return (ascending.long() << 32) | numbers


# The lower half of what `ranked` gives.
_NUMBER = 0xFFFFFFFF


def check_search(config: RetrievalConfig) -> None:
    """ValueError where faiss is named and can't serve."""
    from ringattn.models.landmark.faiss_search import check_index

    check_index(config)


def make_searcher(
    config: RetrievalConfig,
    blocks: Blocks,
    slots: Slots,
    *,
    sp: SequenceParallel,
    stride: int,
    rotate: Rotation,
) -> Searcher:
    """The searcher that the settings name. ValueError where faiss is named and can't serve."""
    if config.search == "exact":
        return Searcher(config, blocks, slots, sp=sp, stride=stride)
    if config.search == "recent":
        return Recent(config, blocks, slots, sp=sp, stride=stride)
    from ringattn.models.landmark.faiss_search import FaissSearcher

    return FaissSearcher(config, blocks, slots, sp=sp, stride=stride, rotate=rotate)
