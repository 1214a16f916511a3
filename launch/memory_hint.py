"""What to say where memory ran out: which part of the estimate is the largest, and what to change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from ringattn.launch.dry_run import architecture, training_step

from ringattn.planner.memory import estimate
from ringattn.settings.launcher import num_ranks
from ringattn.settings.parallel import mesh_shape
from ringattn.settings.run import RunConfig
from ringattn.training.loop import peak_memory

# How the allocator of a CPU says it.
_NO_MEMORY = "can't allocate memory"


@contextmanager
def out_of_memory(config: RunConfig, device: torch.device) -> Iterator[None]:
    """Raises ValueError with the estimate and a remedy in place of an allocator's error."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ValueError(explain(config, device)) from error
    except RuntimeError as error:
        if _NO_MEMORY not in str(error):
            raise
        raise ValueError(explain(config, device)) from error


def explain(config: RunConfig, device: torch.device) -> str:
    """One sentence."""
    world = dist.get_world_size() if dist.is_initialized() else num_ranks(config.launcher)
    rows, degree = mesh_shape(world, config.mesh.sequence_parallel)
    expected = estimate(architecture(config), training_step(config, degree, rows=rows))
    parts = sorted(expected.parts()[:-1], key=lambda part: -part[1])
    name, size = parts[0]
    total = expected.parts()[-1][1]
    held = peak_memory(device)
    remedies = [
        *(["trainer.gradient_checkpointing=true"] if not config.trainer.gradient_checkpointing else []),
        *(["trainer.mlp_chunk=1024"] if config.trainer.mlp_chunk is None else []),
        *(["deepspeed=zero3"] if config.deepspeed.stage in (None, 0, 1, 2) else []),
        "more ranks a sequence (mesh.sequence_parallel)",
    ]
    return (
        f"memory ran out on this rank, which held {held / 2**30:.1f} GiB: {total / 2**30:.1f} GiB were expected at the "
        f"fullest moment ({expected.moment}), {size / 2**30:.1f} of them {name}: write {', or '.join(remedies)}."
    )
