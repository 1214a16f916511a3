"""The training loop: one screen, with everything a step does in the order it happens."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from ringattn.data.token_data import TokenData
from ringattn.settings.trainer import TrainerConfig
from ringattn.training.gradients import average_gradients, clip_gradients
from ringattn.training.loss import local_loss_scale
from ringattn.training.metrics import Recorder, StepMetrics
from ringattn.training.optimizer import Optimizer, trained_parameters
from ringattn.training.reader import SequenceReader


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The data-parallel axis: `number` rows of ranks, of which this rank is in row `index`."""

    number: int
    index: int


def train(
    reader: SequenceReader,
    optimizer: Optimizer,
    data: TokenData,
    *,
    trainer: TrainerConfig,
    clip: float,
    rows: Rows,
    recorder: Recorder,
    save: Callable[[int], None],
) -> None:
    """Run `trainer.steps` steps; `save(step)` is called on every rank after each checkpoint interval.

    Raises:
        ValueError: the loss is not finite.
    """
    accumulation = trainer.accumulation
    sequences = rows.number * accumulation
    world = dist.get_world_size() if dist.is_initialized() else 1
    parameters = trained_parameters(reader.model)
    reader.model.train()
    for step in range(trainer.steps):
        started = time.perf_counter()
        # Every rank counts the targets of the whole global batch by itself.
        targets = sum(data.num_targets(step * sequences + number) for number in range(sequences))
        scale = local_loss_scale(world=world, accumulation=accumulation, valid_tokens=targets)
        loss = torch.zeros((), device=reader.device)
        for part in range(accumulation):
            index = step * sequences + part * rows.number + rows.index
            part_loss = reader.loss_sum(data.sequence(index))
            # Each part is averaged over the accumulation steps too: the scale has undone that already.
            (part_loss * (scale / accumulation)).backward()
            loss += part_loss.detach()
        average_gradients(parameters)
        norm = clip_gradients(parameters, clip)
        mean_loss = _summed(loss) / targets
        if not np.isfinite(mean_loss):
            raise ValueError(
                f"the loss must be finite, but it is {mean_loss} at step {step}: lower "
                "optimizer.learning_rate, or look at the data of this step."
            )
        rate = optimizer.step(step)
        seconds = time.perf_counter() - started
        recorder.step(
            StepMetrics(
                step=step,
                loss=mean_loss,
                learning_rate=rate,
                gradient_norm=norm,
                tokens_per_second=targets / seconds,
                seconds=seconds,
                peak_memory=_largest(peak_memory(reader.device)),
            )
        )
        if trainer.checkpoint_every and (step + 1) % trainer.checkpoint_every == 0 and step + 1 < trainer.steps:
            save(step + 1)


def peak_memory(device: torch.device) -> int:
    """The most memory this process has held, in bytes: on its GPU, or of the process as a whole."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _summed(value: torch.Tensor) -> float:
    if dist.is_initialized():
        dist.all_reduce(value)
    return float(value)


def _largest(value: int) -> int:
    if not dist.is_initialized():
        return value
    # On the CPU of a gloo world, on the GPU of an NCCL one.
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    held = torch.tensor(value, dtype=torch.int64, device=device)
    dist.all_reduce(held, op=dist.ReduceOp.MAX)
    return int(held)
