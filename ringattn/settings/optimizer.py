"""How the weights are updated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ringattn.settings.rules import fractions, not_negative, positive


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


def check_optimizer(optimizer: OptimizerConfig) -> None:
    """The rules that one field's type cannot state; ValueError where one is broken."""
    positive(
        {
            "optimizer.learning_rate": optimizer.learning_rate,
            "optimizer.matrix_learning_rate": optimizer.matrix_learning_rate,
            "optimizer.clip": optimizer.clip,
        }
    )
    not_negative({"optimizer.weight_decay": optimizer.weight_decay})
    fractions(
        {
            "optimizer.warmup": optimizer.warmup,
            "optimizer.final": optimizer.final,
            "optimizer.beta1": optimizer.beta1,
            "optimizer.beta2": optimizer.beta2,
        }
    )
