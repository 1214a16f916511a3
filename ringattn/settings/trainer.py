"""The training loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ringattn.settings.rules import not_negative, positive


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


def check_trainer(trainer: TrainerConfig) -> None:
    """The rules that one field's type cannot state; ValueError where one is broken."""
    positive(
        {
            "trainer.steps": trainer.steps,
            "trainer.sequence_length": trainer.sequence_length,
            "trainer.accumulation": trainer.accumulation,
            "trainer.loss_chunk": trainer.loss_chunk,
            "trainer.evaluate_sequences": trainer.evaluate_sequences,
        }
    )
    not_negative({"trainer.checkpoint_every": trainer.checkpoint_every, "trainer.seed": trainer.seed})
