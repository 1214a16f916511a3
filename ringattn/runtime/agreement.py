"""Do all ranks make the same call? Checked before data moves, so that a disagreement raises everywhere.

Each rank sends the digest of its call, 16 bytes, to everyone on the control group, and posts nothing before all are
there: messages that do not fit each other would end the process inside the transport, or corrupt what is summed.
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


def agree(group: dist.ProcessGroup, terms: Terms, refused: ValueError | None, *, timeout: float) -> None:
    """Return once all ranks of `group` have said the same `terms`. Collective.

    refused: why this rank will not make the call; the others hear of it.
    Raises that error, or Disagreement on every rank, or CommunicationError where a rank says nothing in time.
    """
    if refused is not None:
        terms = {REFUSED: str(refused)}
    try:
        said = _exchange(group, digest_of(terms), timeout)
    except CommunicationError as error:
        raise (refused or error) from error
    if len(set(said)) > 1:
        words: list[Terms] = [{} for _ in said]
        dist.all_gather_object(words, terms, group=group)
        raise refused or Disagreement(_differences(words))
    if refused is not None:
        raise refused


def _exchange(group: dist.ProcessGroup, digest: bytes, timeout: float) -> list[bytes]:
    """Every rank's digest. In small groups each rank tells each other, so that one that is missing has a name."""
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    mine = torch.tensor(list(digest), dtype=torch.uint8)
    everyone = [torch.empty_like(mine) for _ in range(world)]
    if world > _PAIRS:
        works: list[tuple[str, Any]] = [("a rank", dist.all_gather(everyone, mine, group=group, async_op=True))]
    else:
        everyone[rank] = mine
        peers = [(rank + distance) % world for distance in range(1, world)]
        works = [(f"rank {p}", dist.irecv(everyone[p], group=group, group_src=p)) for p in peers]
        works += [(f"rank {p}", dist.isend(mine, group=group, group_dst=p)) for p in peers]
    for who, work in works:
        try:
            work.wait(timedelta(seconds=timeout))
        except RuntimeError as error:
            raise CommunicationError(
                f"rank {rank}, before step 1: {who} of the group did not make this call within {timeout:g} s, or is "
                f"gone; see what it printed, or raise timeout= if it is only slow. The transport: {error}"
            ) from error
    return [bytes(said.tolist()) for said in everyone]


def digest_of(terms: Terms) -> bytes:
    """16 bytes, equal for equal terms."""
    return hashlib.sha256(repr(sorted(terms.items())).encode()).digest()[:16]


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
