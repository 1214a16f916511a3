"""Being one of the ranks that a launcher has started: the world, mistakes that all must know of, and how one ends."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist
from ringattn.launch.failure import one_sentence

from ringattn.runtime.executor import CommunicationError

T = TypeVar("T")

# Until the ranks have read their settings; those have a timeout of their own.
_START = timedelta(minutes=5)

# A rank that lost another waits so many seconds before it says so: the one at fault speaks first, and the launcher
# then stops the rest.
_GRACE = 5.0


class Refused(ValueError):
    """A mistake of the user's that every rank knows of."""


def together(check: Callable[[], T]) -> T:
    """What `check` returns; or Refused on every rank where it raises a ValueError on one. Collective."""
    value, refusal = None, None
    try:
        value = check()
    except ValueError as error:
        refusal = one_sentence(error)
    said: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(said, refusal)
    refused = [(rank, words) for rank, words in enumerate(said) if words is not None]
    if refused:
        rank, words = refused[0]
        raise Refused(words if rank == 0 else f"rank {rank}: {words}")
    return value  # type: ignore[return-value]


def be_rank(work: Callable[[int], object], *, timeout: timedelta = _START) -> int:
    """Join the gloo world that the environment names, do `work(world)`, and leave; returns the exit code.

    A mistake that all ranks know of is said once a host. What one rank alone fails at ends it at once.
    """
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    # All hosts have a first process, which speaks for the host.
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    try:
        dist.init_process_group("gloo", timeout=timeout)
        try:
            work(world)
        except Refused as refused:
            if first:
                print(f"ringattn: {refused}", file=sys.stderr, flush=True)
            # The launcher stops all ranks once one has ended.
            dist.barrier()
            dist.destroy_process_group()
            return 2
        dist.destroy_process_group()
    except Exception as error:
        if _lost_another(error):
            time.sleep(_GRACE)
        elif not _users(error):
            traceback.print_exc()
        print(f"ringattn: rank {rank} of {world} failed: {str(error).strip()}", file=sys.stderr, flush=True)
        # Not through the interpreter's end, which would wait for what other ranks never send.
        os._exit(1)
    return 0


def _users(error: Exception) -> bool:
    """Whether the message is all that a user needs."""
    try:
        return isinstance(error, ValueError) and bool(one_sentence(error))
    except ValueError:
        return False


def _lost_another(error: BaseException) -> bool:
    """Whether the error only tells of another rank that is gone."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    inside = trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("torch.distributed")
    return isinstance(error, CommunicationError) or (inside and isinstance(error, RuntimeError))
