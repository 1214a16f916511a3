"""What a run needs to go on: fp32 weights and moments by the weight, in one file a rank, and where the run was.

Every tensor is whole, so that any number of ranks, ZeRO stage or schedule can go on from it. Weight number i is written
by rank i modulo the ranks: a rank holds its part of the state on the host while it writes, and no more.

    training/state-00000-of-00004.safetensors    `NAME.weight`, `NAME.exp_avg`, ... of every fourth trained weight
    training/training.json                       the step, and what must not change when the run goes on
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ringattn.settings.run import RunConfig
from ringattn.training.engine import WEIGHT, Engine

FOLDER = "training"
RECORD = "training.json"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands. step: steps done. updates: of them, those that moved the weights. identity: what a run that
    goes on must share with it, by setting."""

    step: int
    updates: int
    identity: dict[str, Any]


def collect(engine: Engine) -> dict[str, Tensor]:
    """This rank's part of the state; all ranks together."""
    rank, world = _place()
    mine: dict[str, Tensor] = {}
    for number, name in enumerate(engine.trained()):
        tensors = engine.state(name)
        if number % world == rank:
            mine |= {f"{name}.{key}": tensor.contiguous().clone() for key, tensor in tensors.items()}
    return mine


def write_state(folder: Path, mine: dict[str, Tensor], progress: Progress) -> None:
    """Write this rank's part into the checkpoint `folder`; rank 0 the record as well."""
    rank, world = _place()
    place = folder / FOLDER
    place.mkdir(exist_ok=True)
    save_file(mine, place / f"state-{rank:05d}-of-{world:05d}.safetensors")
    if rank == 0:
        (place / RECORD).write_text(json.dumps(asdict(progress), indent=2) + "\n", encoding="utf-8")


def read_progress(checkpoint: Path) -> Progress:
    """Raises ValueError where the checkpoint holds no state."""
    path = checkpoint / FOLDER / RECORD
    if not path.is_file():
        raise ValueError(
            f"a run goes on from a checkpoint with its training state, and {checkpoint} has none "
            f"(checkpoint.state=false "
            "saved it, or another program): train on from its weights in a new run with model.path=..."
        )
    return Progress(**json.loads(path.read_text(encoding="utf-8")))


class State:
    """The tensors of a checkpoint by name, read when they are asked for."""

    def __init__(self, checkpoint: Path) -> None:
        self._files = [
            safe_open(path, framework="pt") for path in sorted((checkpoint / FOLDER).glob("state-*.safetensors"))
        ]
        self._where = {key: file for file in self._files for key in file.keys()}  # noqa: SIM118

    def of(self, name: str) -> dict[str, Tensor]:
        """The tensors of one trained weight, as `Engine.state` gave them."""
        keys = (WEIGHT, "exp_avg", "exp_avg_sq", "momentum")
        return {key: self._where[f"{name}.{key}"].get_tensor(f"{name}.{key}") for key in keys if self._has(name, key)}

    def _has(self, name: str, key: str) -> bool:
        return f"{name}.{key}" in self._where

    @torch.no_grad()
    def fill(self, model: nn.Module) -> None:
        """Put the trained weights into the model, before an engine takes it.

        Raises:
            ValueError: the checkpoint is of another model.
        """
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        missing = sorted(name for name in trained if not self._has(name, WEIGHT))
        more = sorted({key.rpartition(".")[0] for key in self._where} - set(trained))
        if missing or more:
            raise ValueError(
                "a run goes on with the weights that it trained before, but "
                + (f"the checkpoint lacks {missing[0]}" if missing else f"the model does not train {more[0]}")
                + f" ({len(missing)} missing, {len(more)} too many): give the same model and adapter settings."
            )
        for name, parameter in trained.items():
            value = self.of(name)[WEIGHT]
            if value.shape != parameter.shape:
                raise ValueError(
                    f"a checkpoint fits one model, but {name} has the shape {list(value.shape)} there and "
                    f"{list(parameter.shape)} here: give the same model settings."
                )
            parameter.copy_(value)

    def restore(self, engine: Engine, progress: Progress) -> None:
        """Put weights and moments into an engine that holds the model which `fill` filled."""
        engine.start_restore(progress.updates)
        for name in engine.trained():
            engine.restore(name, self.of(name))


def identity(config: RunConfig, data: Mapping[str, Any], *, rows: int) -> dict[str, Any]:
    """What must stay as it is when a run goes on: by setting, plain values. data: the data's own fingerprint."""
    trainer, taught = config.trainer, config.distill.teacher is not None
    return {
        **{f"model.{key}": value for key, value in asdict(config.model).items()},
        **{f"adapter.{key}": value for key, value in asdict(config.adapter).items()},
        **{f"optimizer.{key}": value for key, value in asdict(config.optimizer).items()},
        **{f"data.{key}": value for key, value in data.items()},
        **({f"distill.{key}": value for key, value in asdict(config.distill).items()} if taught else {}),
        "trainer.sequence_length": trainer.sequence_length,
        "trainer.seed": trainer.seed,
        "sequences a step (data-parallel rows x trainer.accumulation)": rows * trainer.accumulation,
    }


def check_same_run(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises ValueError that names what differs."""
    # Through JSON, as what is stored has been.
    now = json.loads(json.dumps(now))
    differing = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if differing:
        shown = "; ".join(f"{key} was {before.get(key)!r} and is {now.get(key)!r}" for key in differing[:3])
        more = f" (and {len(differing) - 3} more)" if len(differing) > 3 else ""
        raise ValueError(
            f"a run goes on as it began, but {shown}{more}: give the same settings, or start another run in another "
            "run.folder."
        )


def _place() -> tuple[int, int]:
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
