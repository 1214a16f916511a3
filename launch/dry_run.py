"""`ringattn train --dry-run`: what would run, in words and numbers; nothing is started or written."""

from __future__ import annotations

from pathlib import Path

from ringattn.launch.launchers import commands

from ringattn.planner.architecture import Architecture, architecture_of, read_config
from ringattn.planner.choose import AUTO, choose, cluster_for
from ringattn.planner.memory import TrainingStep, estimate
from ringattn.report.table import table
from ringattn.schedule.traffic import Tensors
from ringattn.sequence.mask import Mask
from ringattn.settings.launcher import num_ranks
from ringattn.settings.parallel import mesh_shape
from ringattn.settings.run import RunConfig, digest, to_yaml


def describe(config: RunConfig) -> str:
    """Configuration, mesh, memory estimate and command."""
    text = to_yaml(config)
    world = num_ranks(config.launcher)
    rows, degree = mesh_shape(world, config.mesh.sequence_parallel)
    memory = estimate(architecture(config), training_step(config, degree, rows=rows))
    forward, backward = schedules_of(config, degree)
    sections = [
        text.rstrip(),
        f"schedule: {forward} forward, {backward} backward",
        f"mesh: {rows} data-parallel x {degree} sequence-parallel = {world} ranks, about "
        f"{config.trainer.sequence_length / degree:,.0f} tokens a rank",
        f"memory on the fullest rank at its fullest moment, the {memory.moment} (the program itself, about 0.5 GiB, "
        "not counted):\n" + table(["part", "MiB"], [[name, f"{size / 2**20:,.1f}"] for name, size in memory.parts()]),
        *commands(config, Path(config.run.folder), digest(text)),
    ]
    return "\n\n".join(sections)


def architecture(config: RunConfig) -> Architecture:
    """The sizes of the model, from the settings or from the model folder."""
    if config.model.architecture is not None:
        return config.model.architecture
    return architecture_of(read_config(Path(str(config.model.path))))


def schedules_of(config: RunConfig, ranks: int) -> tuple[str, str]:
    """What the forward and the backward will run under; `auto` is worked out for a sequence without documents."""
    named = config.schedule.name, config.schedule.backward or config.schedule.name
    if AUTO not in named:
        return named
    device = "cpu" if config.launcher.device == "cpu" else _first_device()
    sizes, item = architecture(config), 2 if config.trainer.precision == "bfloat16" else 4
    tensors = Tensors(1, sizes.heads, sizes.key_value_heads, sizes.head_dim, item, 4)
    forward, backward = (
        choose(
            cluster_for(config.schedule.cluster, device, ranks),
            config.schedule.layout,
            (config.trainer.sequence_length, config.trainer.sequence_length),
            Mask(),
            tensors,
            config.trainer.precision,
            backward=way,
        )
        if name == AUTO
        else name
        for way, name in zip((False, True), named)
    )
    return forward, backward


def _first_device() -> str:
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"


def training_step(config: RunConfig, ranks: int, *, rows: int) -> TrainingStep:
    """What the memory estimate needs to know of a run on `rows` rows of `ranks` ranks."""
    forward, backward = schedules_of(config, ranks)
    return TrainingStep(
        length=config.trainer.sequence_length,
        ranks=ranks,
        schedule=forward,
        backward=backward,
        layout=config.schedule.layout,
        item_bytes=2 if config.trainer.precision == "bfloat16" else 4,
        loss_chunk=config.trainer.loss_chunk,
        gradient_checkpointing=config.trainer.gradient_checkpointing,
        keep_attention=config.trainer.keep_attention,
        moments=(1, 2) if config.optimizer.name == "muon" else (2, 2),
        accumulation=config.trainer.accumulation,
        data_parallel=rows,
        threads=config.launcher.threads or 1,
    )
