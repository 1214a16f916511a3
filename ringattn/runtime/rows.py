"""The data-parallel axis: rows of ranks, of which each reads sequences of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")

_PATIENCE = timedelta(days=7)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """`number` rows of as many ranks each, one behind the other; this rank is in row `index`.

    meeting: of all ranks, where rows wait for one another; torch's default group where None.
    """

    number: int = 1
    index: int = 0
    meeting: dist.ProcessGroup | None = field(default=None, compare=False, repr=False)

    def mine(self, tasks: Sequence[T]) -> Sequence[T]:
        """Those of `tasks` that this row does: they are dealt out in turn."""
        return tasks[self.index :: self.number]

    def gather(self, done: Sequence[Any]) -> list[Any]:
        """What all rows made of the tasks dealt out by `mine`, in the order of the tasks; the same on every rank.

        done: what this row made of its own, plain values. Collective over all ranks.
        """
        if self.number == 1:
            return list(done)
        world = dist.get_world_size()
        every: list[Any] = [None] * world
        dist.all_gather_object(every, done, group=self.meeting)
        of_rows = every[:: world // self.number]
        longest = max(map(len, of_rows))
        return [row[turn] for turn in range(longest) for row in of_rows if turn < len(row)]


def make_rows(
    number: int, *, backend: str | None = None, timeout: timedelta | None = None
) -> tuple[Rows, dist.ProcessGroup | None]:
    """Divide torch's default group into `number` rows; this rank's place, and the group of its row's ranks (None: the
    default group). Collective over the default group.

    backend: of the rows' groups; the default group's unless given.
    """
    world, rank = dist.get_world_size(), dist.get_rank()
    if world % number:
        raise ValueError(f"{world} ranks can't be divided into {number} rows of as many each: choose a divisor.")
    if number == 1 and backend is None:
        return Rows(), None
    degree = world // number
    group = None
    for row in range(number):
        # Every rank takes part in making every group, and keeps its own.
        members = range(row * degree, (row + 1) * degree)
        made = dist.new_group(members, backend=backend, timeout=timeout)
        group = made if rank in members else group
    # One row may have much less to do than another. A rank that died breaks its connections, and nobody waits on.
    meeting = dist.new_group(backend="gloo", timeout=_PATIENCE) if number > 1 else None
    return Rows(number=number, index=rank // degree, meeting=meeting), group
