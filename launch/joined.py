"""`torchrun ... -m ringattn train`: the workers exist already; rank 0 composes, the others wait for what it
froze.

Rank 0 announces the run folder and the digest, or its error, through the store that torchrun hosts.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from ringattn.launch.compose import compose
from ringattn.launch.failure import one_sentence
from ringattn.launch.run_folder import freeze

KEY = "ringattn/frozen"
PATIENCE = timedelta(minutes=30)  # A large text takes a while to tokenize.


def join(overrides: Sequence[str]) -> int:
    """Take part as the rank that the environment names; returns the exit code.

    Raises:
        ValueError: a mistake in the configuration, on rank 0; the other ranks leave with exit code 2.
    """
    store, rank, world = next(dist.rendezvous("env://"))
    if rank == 0:
        try:
            # The world is the launcher's to choose: what torchrun started is what there is.
            config = compose([*overrides, f"launcher.processes={os.environ['LOCAL_WORLD_SIZE']}"], world=world)
            folder, digest = freeze(config)
        except ValueError as error:
            store.set(KEY, json.dumps({"error": str(error)}))
            raise
        store.set(KEY, json.dumps({"folder": str(folder), "digest": digest}))
        print(f"run folder {folder}", file=sys.stderr, flush=True)
    else:
        store.wait([KEY], PATIENCE)
    frozen = json.loads(store.get(KEY))
    if "error" in frozen:
        return 2
    # Late, because it imports the models: a mistake in the configuration is said without waiting for them.
    from ringattn.launch.job import work

    try:
        work(Path(frozen["folder"]), frozen["digest"], store)
    except ValueError as error:
        print(f"ringattn: rank {rank}: {one_sentence(error)}", file=sys.stderr, flush=True)
        return 2
    return 0
