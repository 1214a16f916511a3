"""`ringattn train --dry-run`: what would run, in words and numbers; nothing is started or written."""

from __future__ import annotations

from pathlib import Path

from ringattn.launch.launchers import commands

from ringattn.planner.architecture import Architecture, architecture_of, read_config
from ringattn.planner.choose import AUTO, choose, cluster_for
from ringattn.planner.memory import estimate
from ringattn.planner.training_step import Precision, TrainingStep
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
        *_of_hybrids(config),
        *(["the estimate leaves out the teacher"] if config.distill.teacher is not None else []),
        *commands(config, Path(config.run.folder), digest(text)),
    ]
    return "\n\n".join(sections)


def _of_hybrids(config: RunConfig) -> list[str]:
    """What the estimate does not know."""
    kinds = () if config.model.path is None else read_config(Path(config.model.path)).get("layer_types") or ()
    if config.model.hybrid is None and "linear_attention" not in kinds:
        return []
    return ["the estimate counts every layer as full attention, and some layers of this model are linear"]


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
    bfloat16, stage = config.trainer.precision == "bfloat16", config.deepspeed.stage or 0
    length, block = config.trainer.sequence_length, config.model.landmark_block
    return TrainingStep(
        length=length if block is None else length + length // block,
        ranks=ranks,
        schedule=forward,
        backward=backward,
        layout=config.schedule.layout,
        item_bytes=2 if bfloat16 else 4,
        precision=Precision.MASTER if bfloat16 and stage > 0 else Precision.WHOLE,
        zero=stage,
        mlp_chunk=config.trainer.mlp_chunk,
        trained=trained_share(config),
        loss_chunk=config.trainer.loss_chunk,
        gradient_checkpointing=config.trainer.gradient_checkpointing,
        keep_attention=config.trainer.keep_attention,
        moments=(1, 2) if config.optimizer.name == "muon" else (2, 2),
        accumulation=config.trainer.accumulation,
        data_parallel=rows,
        threads=config.launcher.threads or 1,
    )


def trained_share(config: RunConfig) -> float:
    """The share of the weights that is trained: all of them, or adapters and what goes with them."""
    adapter = config.adapter
    if adapter.kind == "none":
        return 1.0
    sizes = architecture(config)
    hidden, inner = sizes.hidden_size, sizes.intermediate_size
    queries, keys = sizes.heads * sizes.head_dim, sizes.key_value_heads * sizes.head_dim
    shapes = {
        "q_proj": queries + hidden,
        "k_proj": keys + hidden,
        "v_proj": keys + hidden,
        "o_proj": queries + hidden,
        "gate_proj": inner + hidden,
        "up_proj": inner + hidden,
        "down_proj": inner + hidden,
    }
    named = {
        "linear": list(shapes),
        "attention": ["q_proj", "k_proj", "v_proj", "o_proj"],
    }.get(adapter.targets, [name.strip() for name in adapter.targets.split(",")])
    trained = sizes.layers * adapter.rank * sum(shapes.get(name, 0) for name in named)
    trained += sizes.vocabulary * hidden if adapter.train_embeddings else 0
    trained += (2 * sizes.layers + 1) * hidden if adapter.train_norms else 0
    return min(1.0, trained / sizes.parameters())
