"""What a schedule's file writes with: chunks of a rank, tasks, moves, and the value at the end."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence

from ringattn.schedule.value import Kind, Move, Schedule, Shape, Side, Step, Task


class Builder:
    """Collects tasks and moves step by step and returns them as a `Schedule`.

    pieces: the number of chunks on each rank must be a multiple of this (a schedule that sends the pieces of a
        shard over different routes says how many it needs).
    head_groups: into how many groups the query heads are split, as evenly as they go.
    """

    def __init__(self, name: str, shape: Shape, *, pieces: int = 1, head_groups: int = 1) -> None:
        shape.check()
        self.name = name
        self.world = shape.world
        self.chunks_per_rank = math.lcm(shape.chunks_per_rank, pieces)
        self.heads = split_heads(shape.query_heads, head_groups)
        self._tasks: defaultdict[int, list[Task]] = defaultdict(list)
        self._moves: defaultdict[int, list[Move]] = defaultdict(list)
        each = self.chunks_per_rank
        self._chunks = [tuple(range(rank * each, (rank + 1) * each)) for rank in range(shape.world)]

    def chunks(self, rank: int, *, piece: int = 0, of: int = 1) -> tuple[int, ...]:
        """The chunks that `rank` owns, or every `of`-th of them from `piece` on."""
        return self._chunks[rank] if of == 1 else self._chunks[rank][piece::of]

    def compute(self, step: int, rank: int, *, queries: tuple[int, ...], keys: tuple[int, ...], heads: int = 0) -> None:
        """In `step`, `rank` computes the blocks of `queries` with `keys` for the head group `heads`."""
        self._tasks[step].append(Task(rank, queries, keys, heads))

    def send(
        self,
        step: int,
        source: int,
        target: int,
        side: Side,
        chunks: tuple[int, ...],
        *,
        heads: int = 0,
        due: int | None = None,
    ) -> None:
        """In `step`, the inputs of `chunks` set out from `source`, and are at `target` when step `due` ends."""
        due = step if due is None else due
        self._moves[step].append(Move(source, target, Kind.PARCEL, side, chunks, heads, due))

    def send_result(
        self,
        step: int,
        source: int,
        target: int,
        side: Side,
        chunks: tuple[int, ...],
        *,
        heads: int = 0,
        due: int | None = None,
    ) -> None:
        """In `step`, what `source` computed for `chunks`, in that step too, leaves for `target`, their owner or a rank
        that adds to it, and is there when step `due` ends."""
        due = step if due is None else due
        self._moves[step].append(Move(source, target, Kind.PARTIAL, side, chunks, heads, due))

    def build(self) -> Schedule:
        last = max((*self._tasks, *self._moves, *(m.due for ms in self._moves.values() for m in ms)), default=-1)
        steps = tuple(Step(tuple(self._tasks[s]), tuple(self._moves[s])) for s in range(last + 1))
        return Schedule(self.name, self.world, self.chunks_per_rank, self.heads, steps)


def split_heads(query_heads: int, groups: int) -> tuple[tuple[int, int], ...]:
    """`groups` half-open ranges of query heads whose sizes differ by one at most; some are empty past one a head.

    Key and value heads follow from them: a group takes those that its query heads need, so one that stands at a
    border, or that more groups than one share, goes to each of these groups.
    """
    if groups < 1:
        raise ValueError(f"heads are split into at least 1 group, got {groups}")
    size, longer = divmod(query_heads, groups)
    bounds = [0]
    for group in range(groups):
        bounds.append(bounds[-1] + size + (group < longer))
    return tuple(itertools.pairwise(bounds))


def merged_chunks(groups: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The chunks of all `groups`, each of them ascending, in ascending order."""
    if len(groups) == 1:
        return groups[0]
    return tuple(sorted(chunk for group in groups for chunk in group))
