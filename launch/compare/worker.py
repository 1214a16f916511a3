"""One rank of `ringattn compare`, from its place in the world to its exit code."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Sequence
from datetime import timedelta

import torch.distributed as dist
from ringattn.launch.compare.job import Refused, compare, together
from ringattn.launch.compare.settings import read

from ringattn.runtime.executor import CommunicationError

# Until the ranks have read their settings; those have a timeout of their own.
_START = timedelta(minutes=5)

# A rank that lost another waits so many seconds before it says so: the one at fault speaks first, and the launcher
# then stops the rest.
_GRACE = 5.0


def take_part(words: Sequence[str], command: str) -> int:
    """Be the rank that the environment names. command: what a person typed, for the report."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    # All hosts have a first process, which speaks for the host.
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    try:
        dist.init_process_group("gloo", timeout=_START)
        try:
            compare(together(lambda: read(words, world=world)), command=command)
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
        else:
            traceback.print_exc()
        print(f"ringattn: rank {rank} of {world} failed: {str(error).strip()}", file=sys.stderr, flush=True)
        # Not through the interpreter's end, which would wait for what other ranks never send.
        os._exit(1)
    return 0


def _lost_another(error: BaseException) -> bool:
    """Whether the error only tells of another rank that is gone."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    inside = trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("torch.distributed")
    return isinstance(error, CommunicationError) or (inside and isinstance(error, RuntimeError))


if __name__ == "__main__":
    raise SystemExit(take_part(sys.argv[2:], sys.argv[1]))
