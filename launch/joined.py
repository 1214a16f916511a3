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
from ringattn.launch.device import local_world_size
from ringattn.launch.failure import one_sentence
from ringattn.launch.run_folder import freeze

KEY = "ringattn/frozen"
PATIENCE = timedelta(minutes=30)  # A large text takes a while to tokenize.


def again(overrides: Sequence[str]) -> list[str]:
    """The overrides of this start: after torchrun's agent has started the workers again, the run goes on in its folder.

    Raises:
        ValueError: the run folder has no name of its own to be found by.
    """
    if _starts_before() == 0:
        return list(overrides)
    if not any(word.startswith("run.folder=") for word in overrides):
        raise ValueError("a run that is started again goes on in its run folder: name it with run.folder=...")
    kept = [word for word in overrides if word.partition("=")[0] not in ("run.overwrite", "run.resume", "resume")]
    return [*kept, "run.resume=auto"]


def _starts_before() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def join(overrides: Sequence[str]) -> int:
    """Take part as the rank that the environment names; returns the exit code.

    Raises:
        ValueError: a mistake in the configuration, on rank 0; the other ranks leave with exit code 2.
    """
    store, rank, world = next(dist.rendezvous("env://"))
    # torch's agent may keep one store for all starts of the workers; what an earlier start left in it is stale.
    store = dist.PrefixStore(f"start-{_starts_before()}", store)
    if rank == 0:
        try:
            # The world is the launcher's to choose: what torchrun started is what there is.
            processes = local_world_size()
            config = compose([*again(overrides), f"launcher.processes={processes}"], world=world)
            if config.launcher.kind != "local":
                raise ValueError(
                    f"the ranks have been started already, by torchrun or DeepSpeed's launcher, got launcher="
                    f"{config.launcher.kind}: leave it out, or type plain `ringattn train` on each host."
                )
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
