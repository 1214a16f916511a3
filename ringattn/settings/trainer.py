"""The training loop, its memory and what it keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ringattn.settings.lengths import Tokens
from ringattn.settings.rules import not_negative, positive


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """The loop. Lengths and chunks are in tokens.

    `accumulation`: sequences a step on each data-parallel row. `precision`: bfloat16 computes under autocast with fp32
    weights (under ZeRO 1 to 3 with bf16 weights beside fp32 ones). `keep_attention`: checkpointing keeps what attention
    gave, so that it neither computes nor communicates it again. `loss_chunk`: tokens whose logits exist at one time.
    `mlp_chunk`: tokens whose feed-forward activations exist at one time (null: all). `offload_activations`: what
    checkpointing keeps waits in the host's memory. `evaluate_sequences`: held-out sequences read at the end, at most.
    `skip_limit`: steps in a row whose loss or gradient is not finite, which are skipped, before the run stops.
    `hang_seconds`: without progress for so long, each rank says what it waits for (0: never).
    """

    steps: int = 100
    sequence_length: Tokens = 8192
    accumulation: int = 1
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    keep_attention: bool = True
    offload_activations: bool = False
    loss_chunk: int = 1024
    mlp_chunk: int | None = None
    evaluate_sequences: int = 4
    skip_limit: int = 3
    hang_seconds: float = 120.0
    wandb: Literal["off", "offline", "online"] = "off"
    tensorboard: bool = False


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """`every` in steps, 0 for the end only; `keep` how many; `dtype` of the exported weights.

    `state`: the optimizer's tensors and fp32 weights as well, without which a checkpoint can't be resumed from.
    """

    every: int = 0
    keep: int = 1
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    state: bool = True


def check_trainer(trainer: TrainerConfig, checkpoint: CheckpointConfig) -> None:
    """The rules that one field's type cannot state; ValueError where one is broken."""
    positive(
        {
            "trainer.steps": trainer.steps,
            "trainer.sequence_length": trainer.sequence_length,
            "trainer.accumulation": trainer.accumulation,
            "trainer.loss_chunk": trainer.loss_chunk,
            "trainer.mlp_chunk": trainer.mlp_chunk,
            "trainer.evaluate_sequences": trainer.evaluate_sequences,
            "checkpoint.keep": checkpoint.keep,
        }
    )
    not_negative(
        {
            "checkpoint.every": checkpoint.every,
            "trainer.seed": trainer.seed,
            "trainer.skip_limit": trainer.skip_limit,
            "trainer.hang_seconds": trainer.hang_seconds,
        }
    )
    if trainer.offload_activations and not trainer.gradient_checkpointing:
        raise ValueError(
            "trainer.offload_activations moves what checkpointing keeps to the host, and nothing is checkpointed: "
            "write trainer.gradient_checkpointing=true as well."
        )
