"""Do all ranks make the same call? Checked before data moves, so that a disagreement raises everywhere.

Each call's digest, 16 bytes, goes to everyone on the control group. The first call of a shape waits for it
before it posts anything; later calls look at the answer after their first tasks, when it has long been there.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from ringattn.runtime.executor import CommunicationError

Terms = dict[str, str]


# Up to this many ranks each tells each other its digest, so that one that is missing is known by name.
_PAIRS = 32

# The term under which a rank that refuses its own arguments says why, so that the others need not wait for it.
REFUSED = "what the rank refused"


class Disagreement(ValueError):
    """The ranks of a group made different calls; the text says who said what."""


class Handshake:
    """One call's agreement, under way."""

    def __init__(self, group: dist.ProcessGroup, terms: Terms, timeout: float) -> None:
        self._group = group
        self._terms = terms
        self._timeout = timeout
        self._mine = digest_of(terms)
        self._all = [torch.empty_like(self._mine) for _ in range(dist.get_world_size(group))]
        self._works: list[tuple[str, Any]] | None = self._start()

    def _start(self) -> list[tuple[str, Any]]:
        """What to wait for, with who is waited for. Pairs can say who is missing; large groups gather instead."""
        rank, world = dist.get_rank(self._group), len(self._all)
        if world > _PAIRS:
            work = dist.all_gather(self._all, self._mine, group=self._group, async_op=True)
            return [("another rank", work)]
        peers = [(rank + distance) % world for distance in range(1, world)]
        self._all[rank].copy_(self._mine)
        works = [(f"rank {p}", dist.irecv(self._all[p], group=self._group, group_src=p)) for p in peers]
        works += [(f"rank {p}", dist.isend(self._mine, group=self._group, group_dst=p)) for p in peers]
        return works

    def settle(self) -> None:
        """Wait for the others' digests. Raises Disagreement where they differ, on every rank, and CommunicationError
        where one does not come."""
        if self._works is None:
            return
        works, self._works = self._works, None
        for who, work in works:
            try:
                work.wait(timedelta(seconds=self._timeout))
            except RuntimeError as error:
                raise CommunicationError(
                    f"rank {dist.get_rank(self._group)}, before step 1: {who} of the group did not make this call "
                    f"within {self._timeout:g} s, or is gone; see what it printed, or raise timeout= if it is only "
                    f"slow. The transport says: {error}"
                ) from error
        if all(torch.equal(other, self._mine) for other in self._all):
            return
        said: list[Terms] = [{} for _ in self._all]
        dist.all_gather_object(said, self._terms, group=self._group)
        raise Disagreement(_differences(said))


def digest_of(terms: Terms) -> torch.Tensor:
    """uint8 [16]."""
    words = repr(sorted(terms.items())).encode()
    return torch.tensor(list(hashlib.sha256(words).digest()[:16]), dtype=torch.uint8)


def _differences(said: list[Terms]) -> str:
    refusals = [f"rank {rank}: {terms[REFUSED]}" for rank, terms in enumerate(said) if REFUSED in terms]
    if refusals:
        return "other ranks of the sequence-parallel group refused this call: " + "; ".join(refusals)
    lines = []
    for term in dict.fromkeys(term for terms in said for term in terms):
        values = [terms.get(term, "(not given)") for terms in said]
        if len(set(values)) > 1:
            by_rank = "; ".join(f"rank {rank}: {value}" for rank, value in enumerate(values))
            lines.append(f"{term} differs ({by_rank})")
    found = "; ".join(lines) or "the ranks are at different calls"
    return f"the ranks of a sequence-parallel group must make the same call: {found}"
