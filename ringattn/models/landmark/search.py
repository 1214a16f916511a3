"""Which past blocks a query retrieves: those whose landmarks it meets best (arXiv 2305.16300, section 3.2).

`token_and_head` chooses for each token in each head. `head` shares a head's choice among the tokens that are read
together, and `token` a token's among its heads: then a landmark counts by the largest share that it has in any of their
softmaxes over all landmarks (the reference implementation's rule), which takes two passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ringattn.attention import SequenceParallel
from ringattn.kernels.kernel import sum_dtype
from ringattn.models.landmark.blocks import Blocks
from ringattn.models.landmark.slots import Slots
from ringattn.settings.retrieval import RetrievalConfig

# Landmarks that are searched at one time, and how many scores of each query exist then, on the average: of many
# landmarks, a few of the queries at a time.
_CHUNK = 1024
_SCORES = 32

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

    def cut(self, count: int) -> None:
        """All but the first `count` blocks here were forgotten."""

    def choose(self, query: Tensor, blocks: int, rotate: Rotation, scale: float) -> Tensor:
        """The blocks that are retrieved, int64 [B, Hq or 1, n or 1, min(k, blocks)], ascending; the same on all ranks.

        query: [B, Hq, n, D], with positions. blocks: how many there are over all ranks.
        """
        recent = min(self.config.recent, blocks)
        last = torch.arange(blocks - recent, blocks, device=query.device).expand(len(query), 1, 1, -1)
        wanted = min(self.config.k, blocks) - recent
        if not wanted:
            return last
        best = self.best_here(query, blocks, rotate, scale)
        if self.world > 1:
            best = torch.cat(self.sp.gather(best), dim=-1)
        found = (best.topk(wanted, dim=-1).values & _NUMBER).sort(dim=-1).values
        return torch.cat((found, last.expand(*found.shape[:-1], -1)), dim=-1)

    def searched(self, blocks: int) -> int:
        """How many of this rank's blocks are searched: all before those that are retrieved as the last ones."""
        return len(range(self.rank, blocks - self.config.recent, self.world))

    def best_here(self, query: Tensor, blocks: int, rotate: Rotation, scale: float) -> Tensor:
        """The best of this rank's landmarks as `ranked`, int64 [B, Hq or 1, n or 1, k]; the lowest where there are
        fewer."""
        if self.config.kind == "token_and_head":
            return self._best_of_each(query, blocks, rotate, scale)
        shared = {"head": 2, "token": 1}[self.config.kind]
        total = query.new_full(query.shape[:3], float("-inf"), dtype=sum_dtype(query.dtype))
        for keys, _ in self.landmarks(_SCORES, len(query), blocks, rotate):
            total = torch.logaddexp(total, scores(query, keys, scale).logsumexp(dim=-1))
        if self.world > 1:
            total = torch.stack(self.sp.gather(total)).logsumexp(dim=0)
        shape = [1 if dim == shared else size for dim, size in enumerate(query.shape[:3])]
        best = self._lowest(query, shape)
        for keys, numbers in self.landmarks(_SCORES, len(query), blocks, rotate):
            score = (scores(query, keys, scale) - total[..., None]).amax(dim=shared, keepdim=True)
            best = self._better(best, score, numbers)
        return best

    def _best_of_each(self, query: Tensor, blocks: int, rotate: Rotation, scale: float) -> Tensor:
        best = self._lowest(query, query.shape[:3])
        for keys, numbers in self.landmarks(_CHUNK, len(query), blocks, rotate):
            each = max(1, query.shape[2] * _SCORES // len(numbers))
            for start in range(0, query.shape[2], each):
                part = slice(start, start + each)
                best[:, :, part] = self._better(best[:, :, part], scores(query[:, :, part], keys, scale), numbers)
        return best

    def _lowest(self, query: Tensor, shape: Sequence[int]) -> Tensor:
        return query.new_full((*shape, self.config.k), torch.iinfo(torch.int64).min, dtype=torch.int64)

    def _better(self, best: Tensor, score: Tensor, numbers: Tensor) -> Tensor:
        k = self.config.k
        return torch.cat((best, best_ranked(score, numbers, k)), dim=-1).topk(k, dim=-1).values

    def landmarks(
        self, each: int, batch: int, blocks: int, rotate: Rotation, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The keys of this rank's landmarks that are searched, from `start` on, at the places where they are then,
        [B, Hkv, c, D] with c up to `each`, and the numbers of their blocks, int64 [c]."""
        stop = self.searched(blocks)
        for first in range(start, stop, each):
            keys = self.blocks.landmarks(first, min(first + each, stop))
            numbers = torch.arange(first, first + keys.shape[1], device=keys.device) * self.world + self.rank
            places = self.slots.of_searched(numbers, blocks) * self.stride + self.stride - 1
            yield rotate(keys.reshape(batch, -1, *keys.shape[1:]), places[None]), numbers


def scores(query: Tensor, keys: Tensor, scale: float) -> Tensor:
    """Scores [B, Hq, n, c] of queries [B, Hq, n, D] and keys [B, Hkv, c, D]."""
    wide = sum_dtype(query.dtype)
    grouped = query.to(wide).reshape(len(query), keys.shape[1], -1, query.shape[-1])
    return (grouped @ keys.to(wide).transpose(-1, -2)).mul_(scale).view(*query.shape[:3], -1)


def best_ranked(score: Tensor, numbers: Tensor, k: int) -> Tensor:
    """The largest k of `ranked(score, numbers)` (all where there are fewer), for score [..., c] and numbers int64 [c].

    A few more than k are found by their scores alone; only where the last of these counts as much as the k-th are all
    compared, as in the first layer.
    """
    few = k + _SPARE
    if len(numbers) <= few:
        return ranked(score, numbers).topk(min(k, len(numbers)), dim=-1).values
    values, places = score.float().topk(few, dim=-1)
    order = ranked(values, numbers[places])
    best = order.topk(k, dim=-1).values
    alike = order[..., few - 1] >> 32 == order[..., k - 1] >> 32
    if bool(alike.any()):
        best[alike] = ranked(score[alike], numbers).topk(k, dim=-1).values
    return best


def ranked(score: Tensor, numbers: Tensor) -> Tensor:
    """Scores [..., c] of blocks `numbers` (int64 [..., c]) as int64 that order like them; of blocks that score alike,
    the later one is better.

    In the first layer all landmarks have one key, and those that are searched at one place score alike: without a rule
    for that, what is retrieved would depend on how many ranks there are. The last four bits of fp32 are rounding.
    """
    # Zeros are alike, whatever their sign.
    bits = (score.float() + 0.0).view(torch.int32)
    ascending = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits) >> 4
    return (ascending.long() << 32) | numbers


_SPARE = 4

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
    from ringattn.models.landmark.faiss_search import FaissSearcher

    return FaissSearcher(config, blocks, slots, sp=sp, stride=stride, rotate=rotate)
