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
from typing import Any

import yaml

from ringattn.settings.adapter import AdapterConfig, check_adapter
from ringattn.settings.data import DataConfig, check_data
from ringattn.settings.deepspeed import DeepSpeedConfig, check_deepspeed
from ringattn.settings.distill import DistillConfig, check_distill
from ringattn.settings.launcher import LauncherConfig, RunFolderConfig, check_launcher, check_run_folder
from ringattn.settings.model import ModelConfig, check_model
from ringattn.settings.optimizer import OptimizerConfig, check_optimizer
from ringattn.settings.parallel import MeshConfig, ScheduleConfig, check_parallel
from ringattn.settings.trainer import CheckpointConfig, TrainerConfig, check_trainer
from ringattn.settings.typed import build


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run, whole."""

    model: ModelConfig
    data: DataConfig
    run: RunFolderConfig
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    deepspeed: DeepSpeedConfig = field(default_factory=DeepSpeedConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    launcher: LauncherConfig = field(default_factory=LauncherConfig)


def from_mapping(mapping: Mapping[str, Any]) -> RunConfig:
    """Type-check a nested mapping into a `RunConfig` and apply the rules that span settings.

    Raises:
        ValueError: the rule, the value that broke it and what to write instead.
    """
    config = build(RunConfig, mapping)
    check(config)
    return config


def check(config: RunConfig) -> None:
    """The rules that one field's type cannot state; ValueError where one is broken."""
    check_model(config.model)
    check_parallel(config.schedule, config.mesh)
    check_optimizer(config.optimizer)
    check_trainer(config.trainer, config.checkpoint)
    check_adapter(config.adapter)
    check_deepspeed(config.deepspeed, optimizer=config.optimizer.name)
    check_data(config.data, config.trainer.sequence_length)
    check_launcher(config.launcher)
    check_run_folder(config.run)
    check_distill(
        config.distill,
        trained=config.model.path,
        adapter=config.adapter.kind,
        stage=config.deepspeed.stage,
        offloads=config.trainer.offload_activations,
    )
    if config.model.hybrid is not None and config.schedule.layout == "striped":
        raise ValueError(
            "a linear attention passes its state from one run of consecutive tokens to the next, got "
            "schedule.layout=striped for a hybrid model: write schedule.layout=zigzag."
        )
    if config.model.hybrid is not None and config.model.hybrid.kernel == "fla" and config.launcher.device == "cpu":
        raise ValueError(
            "flash-linear-attention's kernels run on GPUs, got model.hybrid.kernel=fla and launcher.device=cpu: write "
            "model.hybrid.kernel=auto."
        )
    if config.adapter.kind != "none" and config.model.path is None:
        raise ValueError(
            "adapters adapt a trained model, got adapter.kind=lora for a new one: name a checkpoint with "
            "model.path=..., "
            "or write adapter=none."
        )


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
