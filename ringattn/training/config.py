"""The configuration of a training run as typed, frozen values.

Composed once in the launching process (`ringattn.launch.compose`), written to `config.yaml` in the run
folder, and read from there by every worker. Nothing here imports torch, transformers or Hydra: the launching
process checks a whole run in a fraction of a second, and a worker needs no Hydra.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from ringattn.planner.architecture import Architecture
from ringattn.training.typed import build


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Either `architecture` (a new model) or `path` (a local Hugging Face checkpoint folder)."""

    path: str | None = None
    architecture: Architecture | None = None
    rope_scaling: Literal["linear", "yarn"] | None = None
    rope_factor: float = 1.0


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The text, and the fraction at its end that is held out."""

    source: Literal["kjv", "file"]
    path: str | None = None
    held_out: float = 0.05


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How attention is cut and what travels; `timeout` in seconds.

    `name` and `backward` (null: the same) may be `auto`, the planner's choice for `cluster` (a name or a file; null:
    one of such devices as the ranks have).
    """

    name: str = "tokenring"
    backward: str | None = None
    cluster: str | None = None
    layout: str = "zigzag"
    kernel: str = "auto"
    timeout: float = 600.0


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """`sequence_parallel` ranks share a sequence (null: all); the other axis reads other sequences."""

    sequence_parallel: int | None = None


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW for all parameters, or Muon for the hidden matrices and AdamW for the rest.

    `learning_rate` is AdamW's, `matrix_learning_rate` Muon's; `warmup` and `final` are fractions, of the
    steps and of the peak rate.
    """

    name: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 3e-4
    matrix_learning_rate: float = 0.02
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.1
    warmup: float = 0.1
    final: float = 0.1
    clip: float = 1.0


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """The loop. Lengths are in tokens; `checkpoint_every` in steps, 0 for the end only."""

    steps: int = 100
    sequence_length: int = 8192
    accumulation: int = 1
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    keep_attention: bool = True
    loss_chunk: int = 1024
    checkpoint_every: int = 0
    evaluate_sequences: int = 4
    wandb: Literal["off", "offline", "online"] = "off"


@dataclass(frozen=True, kw_only=True)
class LauncherConfig:
    """Workers on this machine. `threads` per worker (null: cores / processes)."""

    processes: int = 2
    threads: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclass(frozen=True, kw_only=True)
class RunFolderConfig:
    """Where a run writes. An existing folder is refused unless `overwrite` is true."""

    folder: str
    name: str = "run"
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run, whole."""

    model: ModelConfig
    data: DataConfig
    run: RunFolderConfig
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    launcher: LauncherConfig = field(default_factory=LauncherConfig)


def from_mapping(mapping: Mapping[str, Any]) -> RunConfig:
    """Type-check a nested mapping into a `RunConfig` and apply the rules that span settings.

    Raises:
        ValueError: the rule, the value that broke it and what to write instead.
    """
    config = build(RunConfig, mapping)
    check(config)
    return config


def to_yaml(config: RunConfig) -> str:
    """The frozen text: the same configuration always gives the same bytes."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True)


def digest(text: str) -> str:
    """SHA-256 of a frozen configuration."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def load(path: Path) -> tuple[RunConfig, str]:
    """Read a frozen configuration: the values and the digest of the file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(
            f"a worker reads the frozen configuration from the run folder, but {path} is not there on this "
            "host: put run.folder on a file system that every host sees."
        ) from None
    return from_mapping(yaml.safe_load(text)), digest(text)


def check(config: RunConfig) -> None:
    """The rules that one field's type cannot state."""
    model, data, trainer, optimizer = config.model, config.data, config.trainer, config.optimizer
    if (model.path is None) == (model.architecture is None):
        raise ValueError(
            "a run has either model.path (a checkpoint folder) or model.architecture (sizes of a new "
            f"model), got {'neither' if model.path is None else 'both'}: choose with model=folder "
            "model.path=... or model=llama_demo."
        )
    if (data.source == "file") != (data.path is not None):
        raise ValueError(
            f"data.path goes with data.source=file, got data.source={data.source} and data.path={data.path}: "
            "write data=file data.path=/path/to/text.txt, or data=kjv."
        )
    _positive(
        {
            "trainer.steps": trainer.steps,
            "trainer.sequence_length": trainer.sequence_length,
            "trainer.accumulation": trainer.accumulation,
            "trainer.loss_chunk": trainer.loss_chunk,
            "trainer.evaluate_sequences": trainer.evaluate_sequences,
            "optimizer.learning_rate": optimizer.learning_rate,
            "optimizer.matrix_learning_rate": optimizer.matrix_learning_rate,
            "optimizer.clip": optimizer.clip,
            "schedule.timeout": config.schedule.timeout,
            "launcher.processes": config.launcher.processes,
            "launcher.threads": 1 if config.launcher.threads is None else config.launcher.threads,
            "mesh.sequence_parallel": 1 if config.mesh.sequence_parallel is None else config.mesh.sequence_parallel,
        }
    )
    _not_negative(
        {
            "trainer.checkpoint_every": trainer.checkpoint_every,
            "trainer.seed": trainer.seed,
            "optimizer.weight_decay": optimizer.weight_decay,
        }
    )
    _fractions(
        {
            "data.held_out": data.held_out,
            "optimizer.warmup": optimizer.warmup,
            "optimizer.final": optimizer.final,
            "optimizer.beta1": optimizer.beta1,
            "optimizer.beta2": optimizer.beta2,
        }
    )
    if data.held_out == 0:
        raise ValueError(
            "data.held_out is the fraction of the text kept for evaluation and must be above 0, got 0.0: "
            "write data.held_out=0.05."
        )
    if model.architecture is not None:
        _check_architecture(model.architecture)
    if model.rope_scaling is not None and model.path is None:
        raise ValueError(
            "RoPE scaling stretches the positions of a trained model, got "
            f"model.rope_scaling={model.rope_scaling} for a new one: raise model.architecture.max_positions "
            "instead."
        )
    if (model.rope_scaling is None) != (model.rope_factor == 1.0) or model.rope_factor < 1:
        raise ValueError(
            f"RoPE scaling takes a kind and a factor above 1, got model.rope_scaling={model.rope_scaling} "
            f"and model.rope_factor={model.rope_factor}: write for example model.rope_scaling=yarn "
            "model.rope_factor=2."
        )


def mesh_shape(world: int, sequence_parallel: int | None) -> tuple[int, int]:
    """(data parallel, sequence parallel) degrees for `world` ranks.

    Raises:
        ValueError: the world is no multiple of the sequence-parallel degree.
    """
    degree = world if sequence_parallel is None else sequence_parallel
    if world % degree:
        fitting = [d for d in range(1, world + 1) if world % d == 0]
        raise ValueError(
            f"the number of ranks must be a multiple of mesh.sequence_parallel, got {world} ranks and a "
            f"degree of {degree}: choose a degree from {fitting}, or change launcher.processes."
        )
    return world // degree, degree


def _check_architecture(sizes: Architecture) -> None:
    numbers = dataclasses.asdict(sizes)
    start = numbers.pop("local_start")
    _positive({f"model.architecture.{k}": v for k, v in numbers.items() if not isinstance(v, bool)})
    _not_negative({"model.architecture.local_start": start})
    if start > 0 and not sizes.attention_bias:
        raise ValueError(
            "attention starts local through its biases: model.architecture.local_start needs attention_bias, got "
            f"local_start={start} without: write model.architecture.attention_bias=true."
        )
    if sizes.heads % sizes.key_value_heads:
        raise ValueError(
            "query heads share key/value heads evenly: model.architecture.heads must be a multiple of "
            f"key_value_heads, got {sizes.heads} and {sizes.key_value_heads}: write for example "
            f"model.architecture.key_value_heads={sizes.heads}."
        )
    if sizes.vocabulary < 257:
        raise ValueError(
            "model.architecture.vocabulary counts 256 bytes, the end-of-text token and merges, got "
            f"{sizes.vocabulary}: write model.architecture.vocabulary=512."
        )
    if sizes.head_dim % 2:
        raise ValueError(
            f"RoPE turns pairs of channels: model.architecture.head_dim must be even, got {sizes.head_dim}: "
            f"write model.architecture.head_dim={sizes.head_dim + 1}."
        )


def _positive(values: Mapping[str, float]) -> None:
    for key, value in values.items():
        if not value > 0:
            raise ValueError(f"{key} must be above 0, got {value}: write for example {key}=1.")


def _not_negative(values: Mapping[str, float]) -> None:
    for key, value in values.items():
        if not value >= 0:
            raise ValueError(f"{key} must be 0 or more, got {value}: write for example {key}=0.")


def _fractions(values: Mapping[str, float]) -> None:
    for key, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{key} is a fraction from 0 to below 1, got {value}: write for example {key}=0.1.")
