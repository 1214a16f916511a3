"""`ringattn train --dry-run`: what would run, in words and numbers; nothing is started or written."""

from __future__ import annotations

from pathlib import Path

from ringattn.launch.launchers import commands

from ringattn.planner.architecture import LOOKUPS, Architecture, HybridArchitecture, architecture_of, read_config
from ringattn.planner.choose import AUTO, choose, cluster_for
from ringattn.planner.cluster import Cluster
from ringattn.planner.memory import estimate
from ringattn.planner.states import choose_route
from ringattn.planner.training_step import Precision, TrainingStep
from ringattn.report.table import table
from ringattn.schedule.traffic import Tensors
from ringattn.sequence.layout import make_layout
from ringattn.sequence.mask import Mask
from ringattn.settings.hybrid import hybrid_of
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
        *_of_hybrids(config, degree),
        f"mesh: {rows} data-parallel x {degree} sequence-parallel = {world} ranks, about "
        f"{config.trainer.sequence_length / degree:,.0f} tokens a rank",
        f"memory on the fullest rank at its fullest moment, the {memory.moment} (the program itself, about 0.5 GiB, "
        "not counted):\n" + table(["part", "MiB"], [[name, f"{size / 2**20:,.1f}"] for name, size in memory.parts()]),
        *(["the estimate leaves out the teacher"] if config.distill.teacher is not None else []),
        *commands(config, Path(config.run.folder), digest(text)),
    ]
    return "\n\n".join(sections)


def _of_hybrids(config: RunConfig, ranks: int) -> list[str]:
    """Which layers mix tokens how, where not all are full."""
    sizes = architecture(config)
    if not isinstance(sizes, HybridArchitecture):
        return []
    travel = "" if sizes.mixer() is None or ranks == 1 else f"; states take the route {route_of(config, ranks)}"
    return [f"layers: {sizes.describe()}{travel}"]


def architecture(config: RunConfig) -> Architecture:
    """The sizes of the model, from the settings or from the model folder."""
    if config.model.architecture is None:
        return architecture_of(read_config(Path(str(config.model.path))))
    if config.model.hybrid is None:
        return config.model.architecture
    return hybrid_of(config.model.architecture, config.model.hybrid)


def route_of(config: RunConfig, ranks: int) -> str:
    """How the states of linear layers travel; `auto` is worked out."""
    if config.model.hybrid is not None:
        named = config.model.hybrid.state_route
    else:
        named = str(read_config(Path(str(config.model.path)))["state_route"])
    mixer = architecture(config).mixer()
    if named != AUTO or mixer is None:
        return named
    layout = make_layout(config.schedule.layout, config.trainer.sequence_length, ranks)
    return choose_route(layout, mixer.states(), _cluster(config, ranks))


def schedules_of(config: RunConfig, ranks: int) -> tuple[str, str]:
    """What the forward and the backward will run under; `auto` is worked out for a sequence without documents."""
    named = config.schedule.name, config.schedule.backward or config.schedule.name
    if AUTO not in named:
        return named
    sizes, item = architecture(config), 2 if config.trainer.precision == "bfloat16" else 4
    tensors = Tensors(1, sizes.heads, sizes.key_value_heads, sizes.head_dim, item, 4)
    forward, backward = (
        choose(
            _cluster(config, ranks),
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


def _cluster(config: RunConfig, ranks: int) -> Cluster:
    """What `auto` plans for."""
    device = "cpu" if config.launcher.device == "cpu" else _first_device()
    return cluster_for(config.schedule.cluster, device, ranks)


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
        state_route=route_of(config, ranks) if architecture(config).mixer() is not None and ranks > 1 else "ring",
    )


def trained_share(config: RunConfig) -> float:
    """The share of the weights that is trained: all of them, or adapters and what goes with them."""
    adapter = config.adapter
    if adapter.kind == "none":
        return 1.0
    sizes = architecture(config)
    weights = sizes.weights()
    maps = [weight for weight in weights if weight.rows > 1 and weight.name not in LOOKUPS]
    named = {
        "linear": [weight.name for weight in maps],
        "attention": ["q_proj", "k_proj", "v_proj", "o_proj"],
    }.get(adapter.targets, [name.strip() for name in adapter.targets.split(",")])
    trained = sum(adapter.rank * (weight.rows + weight.columns) for weight in maps if weight.name in named)
    trained += sizes.vocabulary * sizes.hidden_size if adapter.train_embeddings else 0
    trained += sum(weight.size for weight in weights if weight.name.endswith("norm")) if adapter.train_norms else 0
    return min(1.0, trained / sizes.parameters())
