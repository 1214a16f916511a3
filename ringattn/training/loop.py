"""The training loop: one screen, with everything a step does in the order it happens."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.distributed as dist

from ringattn.data.sequence import Sequence
from ringattn.runtime.rows import Rows
from ringattn.settings.trainer import TrainerConfig
from ringattn.training.engine import Engine
from ringattn.training.loss import local_loss_scale
from ringattn.training.metrics import Recorder, StepMetrics
from ringattn.training.stop import StopRequest
from ringattn.training.watchdog import Watchdog


class Sequences(Protocol):
    """The training sequences of a run in order, the same on every rank."""

    def sequence(self, index: int) -> Sequence: ...

    def num_targets(self, index: int) -> int: ...


@dataclass(kw_only=True)
class Position:
    """Where the loop stands: steps done, and those of them that moved the weights."""

    step: int = 0
    updates: int = 0


@dataclass(kw_only=True)
class _Clock:
    """Seconds of one step by part, and those in which attention waited for other ranks."""

    device: torch.device
    parts: dict[str, float] = field(default_factory=dict)
    _began: float = field(default_factory=time.perf_counter)

    def lap(self, part: str) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.parts[part] = self.parts.get(part, 0.0) + now - self._began
        self._began = now


def train(
    engine: Engine,
    data: Sequences,
    *,
    trainer: TrainerConfig,
    rows: Rows,
    recorder: Recorder,
    save: Callable[[Position], None],
    save_every: int = 0,
    position: Position | None = None,
    stop: StopRequest | None = None,
    watchdog: Watchdog,
) -> Position:
    """Train from `position` (the start, unless given) to `trainer.steps`, or to the step in which a rank was asked to
    stop; returns where it stands. `save(position)` is called on every rank after every `save_every` steps (0: never).

    Raises:
        ValueError: loss or gradient were not finite in more than `trainer.skip_limit` steps in a row.
    """
    reader, accumulation = engine.reader, trainer.accumulation
    sequences = rows.number * accumulation
    world, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    position = position or Position()
    skipped = 0
    reader.model.train()
    while position.step < trainer.steps:
        step = position.step
        clock, waited = _Clock(device=reader.device), reader.sp.counter.waited
        # Dropout, where there is any, is a function of the step and the rank, so that a run that goes on repeats it.
        torch.manual_seed((trainer.seed * 1_000_003 + step) * world + rank)
        numbers = range(step * sequences, (step + 1) * sequences)
        targets = sum(data.num_targets(number) for number in numbers)
        scale = local_loss_scale(world=world, accumulation=accumulation, valid_tokens=targets)
        loss, tokens = torch.zeros((), dtype=torch.float64, device=reader.device), 0
        for part in range(accumulation):
            watchdog.doing(f"step {step}, reading")
            sequence = data.sequence(numbers[part * rows.number + rows.index])
            tokens += sequence.length
            clock.lap("data")
            watchdog.doing(f"step {step}, forward")
            part_loss = reader.loss_sum(sequence)
            clock.lap("forward")
            watchdog.doing(f"step {step}, backward")
            engine.backward(part_loss * scale)
            loss += part_loss.detach()
            del part_loss  # And with it what is left of the graph.
            clock.lap("backward")
        watchdog.doing(f"step {step}, averaging gradients and updating weights")
        update = engine.step(step)
        clock.lap("update")
        watchdog.doing(f"step {step}, gathering figures")
        total, asked, all_tokens = _summed(
            [float(loss), float(stop is not None and stop.asked), float(tokens)], reader.device
        )
        seconds = sum(clock.parts.values())
        own_wait = reader.sp.counter.waited - waited
        slowest, busy = _slowest(clock.parts["forward"] + clock.parts["backward"] - own_wait, reader.device)
        skipped = 0 if update.applied else skipped + 1
        position.step, position.updates = step + 1, position.updates + update.applied
        recorder.step(
            StepMetrics(
                step=step,
                loss=total / targets,
                learning_rate=update.learning_rate,
                gradient_norm=update.norm,
                applied=update.applied,
                tokens_per_second=all_tokens / (world // rows.number) / seconds,
                seconds=seconds,
                parts={**clock.parts, "waiting for attention": own_wait},
                slowest_rank=slowest,
                slowest_seconds=busy,
                peak_memory=_largest(peak_memory(reader.device)),
            )
        )
        if skipped > trainer.skip_limit:
            raise ValueError(
                f"loss and gradient must be finite, but they were not in {skipped} steps in a row, the last of them "
                f"step "
                f"{step} (loss {total / targets:.4g}): lower optimizer.learning_rate, or look at the data of these "
                "steps; trainer.skip_limit says how many are skipped before the run stops."
            )
        if asked:
            break
        if save_every and position.step % save_every == 0 and position.step < trainer.steps:
            watchdog.doing(f"step {step}, saving")
            save(position)
    return position


def peak_memory(device: torch.device) -> int:
    """The most memory this process has held, in bytes: on its GPU, or of the process as a whole."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _summed(values: list[float], device: torch.device) -> list[float]:
    """Sums over all ranks."""
    held = torch.tensor(values, dtype=torch.float64, device=device)
    if dist.is_initialized():
        dist.all_reduce(held)
    found: list[float] = held.tolist()
    return found


def _slowest(seconds: float, device: torch.device) -> tuple[int, float]:
    """The rank that computed longest, and for how long."""
    if not dist.is_initialized():
        return 0, seconds
    everyone = torch.zeros(dist.get_world_size(), dtype=torch.float64, device=device)
    everyone[dist.get_rank()] = seconds
    dist.all_reduce(everyone)
    rank = int(everyone.argmax())
    return rank, float(everyone[rank])


def _largest(value: int) -> int:
    if not dist.is_initialized():
        return value
    # On the CPU of a gloo world, on the GPU of an NCCL one.
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    held = torch.tensor(value, dtype=torch.int64, device=device)
    dist.all_reduce(held, op=dist.ReduceOp.MAX)
    return int(held)
