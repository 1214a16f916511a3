"""One worker process: `torchrun ... -m ringattn.launch.worker RUN_FOLDER DIGEST [FIRST]`. People type `ringattn
train`.

FIRST is the rank of the host's first worker where the launcher numbers hosts in an order of its own.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch.distributed as dist


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 2 with one sentence where a user can put something right."""
    folder, digest, *first = arguments if arguments is not None else sys.argv[1:]
    from ringattn.launch.failure import one_sentence
    from ringattn.launch.job import work

    store = None
    if first:
        # Before the rank changes: the launcher's rank 0 hosts the store, where the launcher said that it is.
        store = next(dist.rendezvous("env://"))[0]
        os.environ["RANK"] = str(int(first[0]) + int(os.environ["LOCAL_RANK"]))
    try:
        work(Path(folder), digest, store)
    except ValueError as error:
        print(f"ringattn: rank {os.environ['RANK']}: {one_sentence(error)}", file=sys.stderr, flush=True)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
