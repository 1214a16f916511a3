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
_CHUNK = 256

Rotation = Callable[[Tensor, Tensor], Tensor]


class Searcher:
    """Exact search by matrix products over all landmarks, of which this rank holds every world-th."""

    def __init__(
        self, config: RetrievalConfig, blocks: Blocks, slots: Slots, *, sp: SequenceParallel | None, stride: int
    ) -> None:
        self.config, self.blocks, self.slots, self.stride = config, blocks, slots, stride
        self.sp = sp if sp is not None and sp.world > 1 else None
        self.rank, self.world = (0, 1) if self.sp is None else (self.sp.rank, self.sp.world)

    def added(self, landmarks: Tensor) -> None:
        """Blocks were added, whose landmarks' keys are [rows, m, D]."""

    def choose(self, query: Tensor, blocks: int, rotate: Rotation, scale: float) -> Tensor:
        """The blocks that are retrieved, int64 [B, Hq or 1, n or 1, min(k, blocks)], ascending; the same on all ranks.

        query: [B, Hq, n, D], with positions. blocks: how many there are over all ranks.
        """
        values, numbers = self.best_here(query, blocks, rotate, scale)
        count = min(self.config.k, blocks)
        if self.sp is not None:
            # As one message: numbers are whole, and small enough for the dtype of sums.
            both = self.sp.gather(torch.stack((values, numbers.to(values.dtype))))
            values = torch.cat([part[0] for part in both], dim=-1)
            numbers = torch.cat([part[1] for part in both], dim=-1).long()
            best = values.topk(count, dim=-1).indices
            numbers = numbers.gather(-1, best)
        return numbers[..., :count].sort(dim=-1).values

    def best_here(self, query: Tensor, blocks: int, rotate: Rotation, scale: float) -> tuple[Tensor, Tensor]:
        """The best of this rank's landmarks, scores and block numbers [B, Hq or 1, n or 1, k], best first; -inf and -1
        where there are fewer."""
        dims = {"token_and_head": None, "head": 2, "token": 1}[self.config.kind]
        total = None
        if dims is not None:
            total = query.new_full(query.shape[:3], float("-inf"), dtype=sum_dtype(query.dtype))
            for score, _ in self.scores(query, blocks, rotate, scale):
                total = torch.logaddexp(total, score.logsumexp(dim=-1))
            if self.sp is not None:
                total = torch.stack(self.sp.gather(total)).logsumexp(dim=0)
        values: Tensor | None = None
        found: Tensor | None = None
        for score, numbers in self.scores(query, blocks, rotate, scale):
            if total is not None and dims is not None:
                score = (score - total[..., None]).amax(dim=dims, keepdim=True)
            best, where = score.topk(min(self.config.k, score.shape[-1]), dim=-1)
            values, found = _better(values, found, best, numbers[where], self.config.k)
        if values is None or found is None:
            shape = [*query.shape[:3], 0]
            if dims is not None:
                shape[dims] = 1
            values = query.new_empty(shape, dtype=sum_dtype(query.dtype))
            found = torch.empty(shape, dtype=torch.int64, device=query.device)
        missing = self.config.k - values.shape[-1]
        values = torch.nn.functional.pad(values, (0, missing), value=float("-inf"))
        return values, torch.nn.functional.pad(found, (0, missing), value=-1)

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


def _better(
    values: Tensor | None, found: Tensor | None, others: Tensor, numbers: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """The best k of two lists, best first."""
    if values is None or found is None:
        return others, numbers
    values, numbers = torch.cat((values, others), dim=-1), torch.cat((found, numbers), dim=-1)
    best, where = values.topk(min(k, values.shape[-1]), dim=-1)
    return best, numbers.gather(-1, where)


def make_searcher(
    config: RetrievalConfig,
    blocks: Blocks,
    slots: Slots,
    *,
    sp: SequenceParallel | None,
    stride: int,
    key_heads: int,
    rotate: Rotation,
) -> Searcher:
    """The searcher that the settings name. ValueError where faiss is named and can't serve."""
    if config.search == "exact":
        return Searcher(config, blocks, slots, sp=sp, stride=stride)
    from ringattn.models.landmark.faiss_search import FaissSearcher

    return FaissSearcher(config, blocks, slots, sp=sp, stride=stride, rotate=rotate)
