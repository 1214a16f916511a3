"""Do all ranks make the same call? Checked before data moves, so that a disagreement raises everywhere.

Each call's digest goes round in an all-gather of 16 bytes on the control group. The first call of a shape waits for it
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


# The term under which a rank that refuses its own arguments says why, so that the others need not wait for it.
REFUSED = "what the rank refused"


class Disagreement(ValueError):
    """The ranks of a group made different calls; the text says who said what."""


class Handshake:
    """One call's agreement, under way."""

    def __init__(self, group: dist.ProcessGroup, terms: Terms, digest: torch.Tensor, timeout: float) -> None:
        self._group = group
        self._terms = terms
        self._timeout = timeout
        self._digest = digest
        self._all = [torch.empty_like(digest) for _ in range(dist.get_world_size(group))]
        self._work: Any = dist.all_gather(self._all, digest, group=group, async_op=True)

    def settle(self) -> None:
        """Wait for the others' digests. Raises Disagreement where they differ, on every rank."""
        if self._work is None:
            return
        work, self._work = self._work, None
        try:
            work.wait(timedelta(seconds=self._timeout))
        except RuntimeError as error:
            raise CommunicationError(
                f"rank {dist.get_rank(self._group)}: the other ranks of the group did not make this call within "
                f"{self._timeout:g} s: one is gone, stalls, or made no call of attention at all. "
                f"The transport says: {error}"
            ) from error
        if all(torch.equal(other, self._digest) for other in self._all):
            return
        said: list[Terms] = [{} for _ in range(dist.get_world_size(self._group))]
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
