"""A few steps of a tiny model on made sequences with holes in their targets, under any mesh and engine."""

import contextlib
import os
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from transformers import LlamaConfig, LlamaForCausalLM

import ringattn
from ringattn.data.sequence import Sequence
from ringattn.runtime.rows import Rows
from ringattn.settings.deepspeed import DeepSpeedConfig
from ringattn.settings.optimizer import OptimizerConfig
from ringattn.settings.trainer import TrainerConfig
from ringattn.training.engine import TorchEngine
from ringattn.training.loop import Position, train
from ringattn.training.metrics import Recorder
from ringattn.training.reader import SequenceReader
from ringattn.training.state import Progress, State, collect, write_state
from ringattn.training.watchdog import Watchdog

LENGTH = 24
OPTIMIZER = OptimizerConfig(learning_rate=1e-3, clip=0.05, weight_decay=0.1, warmup=0.0)


def model(dtype=torch.float32):
    torch.manual_seed(7)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    made = LlamaForCausalLM(LlamaConfig(vocab_size=61, num_key_value_heads=2, **sizes))
    return made.to(dtype)


class Made:
    """Sequences that are a function of their number; a third to two thirds of the targets are ignored."""

    def sequence(self, index):
        random = np.random.default_rng(index)
        tokens = random.integers(0, 61, LENGTH + 1)
        targets = tokens[1:].copy()
        targets[random.random(LENGTH) < random.uniform(0.3, 0.7)] = -100
        return Sequence(inputs=tokens[None, :-1].astype(np.int64), targets=targets[None].astype(np.int64))

    def num_targets(self, index):
        return self.sequence(index).num_targets


class Losses(Recorder):
    """Keeps the steps' losses and norms in memory."""

    def __init__(self):
        self.enabled, self.steps_seen = False, []

    def step(self, metrics):
        self.steps_seen.append(metrics)


def settings_for(stage, accumulation, *, offload=False, bfloat16=False):
    from ringattn.training.zero import zero_settings

    config = DeepSpeedConfig(stage=stage, offload_optimizer=offload)
    # Every weight is spread at stage 3, however small.
    return zero_settings(config, accumulation=accumulation, clip=OPTIMIZER.clip, bfloat16=bfloat16, whole_below=0)


def make_engine(sp, *, stage, accumulation, steps, state=None, offload=False, bfloat16=False):
    own = model(torch.bfloat16 if bfloat16 else torch.float32)
    if state is not None:
        state.fill(own)
    own = ringattn.parallelize(own, sp)
    reader = SequenceReader(own, sp, device=torch.device("cpu"), chunk=7)
    if stage is None:
        return TorchEngine(reader, OPTIMIZER, steps=steps, accumulation=accumulation)
    from ringattn.training.zero import ZeroEngine

    settings = settings_for(stage, accumulation, offload=offload, bfloat16=bfloat16)
    return ZeroEngine(reader, OPTIMIZER, settings, steps=steps)


def run(
    degree, *, stage=None, sequences=4, steps=5, stop_at=None, folder=None, start=None, offload=False, bfloat16=False
):
    """Train over the default group, `degree` ranks a sequence and `sequences` a step; returns losses, norms and the
    weights by name. `folder`: write the state at the end there; `start`: go on from such a folder."""
    world = dist.get_world_size() if dist.is_initialized() else 1
    rank = dist.get_rank() if dist.is_initialized() else 0
    rows = Rows(number=world // degree, index=rank // degree)
    accumulation = sequences // rows.number
    group = None
    if dist.is_initialized():
        made = [dist.new_group(range(r * degree, (r + 1) * degree)) for r in range(rows.number)]
        group = made[rows.index]
    sp = ringattn.SequenceParallel(group=group, schedule="tokenring", layout="zigzag")
    progress, state = Position(), None
    if start is not None:
        from ringattn.training.state import read_progress

        found = read_progress(Path(start))
        progress, state = Position(step=found.step, updates=found.updates), State(Path(start))
    engine = make_engine(
        sp, stage=stage, accumulation=accumulation, steps=steps, state=state, offload=offload, bfloat16=bfloat16
    )
    if state is not None:
        state.restore(engine, found)
    losses = Losses()
    trainer = TrainerConfig(steps=stop_at or steps, sequence_length=LENGTH, accumulation=accumulation, hang_seconds=0.0)
    with Watchdog(rank, sp.counter, seconds=0) as watchdog:
        position = train(
            engine,
            Made(),
            trainer=trainer,
            rows=rows,
            recorder=losses,
            save=lambda _: None,
            position=progress,
            watchdog=watchdog,
        )
    if folder is not None:
        mine = collect(engine)
        write_state(Path(folder), mine, Progress(step=position.step, updates=position.updates, identity={}))
        if dist.is_initialized():
            dist.barrier()
    weights = {name: tensor.clone() for name, tensor in engine.weights()}
    return [m.loss for m in losses.steps_seen], [m.gradient_norm for m in losses.steps_seen], weights


def on_rank(rank, degree, options):
    """For `run_ranks`: several runs, one after another; what each of them found."""
    # As a launcher would; DeepSpeed asks for it.
    os.environ["LOCAL_RANK"] = str(rank)
    with Path(os.devnull).open("w") as quiet, contextlib.redirect_stdout(quiet):
        return [run(degree, **each) for each in options]


def difference(found, expected):
    """The largest error of the losses and of any weight, relative."""
    losses = max(abs(a - b) / abs(b) for a, b in zip(found[0], expected[0], strict=True))
    weights = max(float((found[2][n] - w).norm() / w.norm()) for n, w in expected[2].items())
    return max(losses, weights)
