"""Whether DeepSpeed holds the weights and the optimizer, and how it spreads them (ZeRO, arXiv 1910.02054)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DeepSpeedConfig:
    """`stage`: null for plain torch; 0 nothing is spread, 1 optimizer states, 2 gradients too, 3 weights too.

    `offload_optimizer` keeps optimizer states and fp32 weights in the host's memory (stages 1 to 3),
    `offload_parameters` the weights (stage 3).
    """

    stage: int | None = None
    offload_optimizer: bool = False
    offload_parameters: bool = False


def check_deepspeed(deepspeed: DeepSpeedConfig, *, optimizer: str) -> None:
    """The rules that one field's type cannot state; ValueError where one is broken. optimizer: its name."""
    stage = deepspeed.stage
    if stage is None:
        if deepspeed.offload_optimizer or deepspeed.offload_parameters:
            raise ValueError("offloading is DeepSpeed's, and deepspeed.stage is null: write deepspeed=zero2 or zero3.")
        return
    if stage not in (0, 1, 2, 3):
        raise ValueError(f"deepspeed.stage is 0, 1, 2 or 3, got {stage}: write for example deepspeed=zero2.")
    if deepspeed.offload_optimizer and stage == 0:
        raise ValueError(
            "deepspeed.offload_optimizer needs optimizer states of its own on each rank, and stage 0 spreads none: "
            "write deepspeed=zero1, zero2 or zero3."
        )
    if deepspeed.offload_parameters and stage != 3:
        raise ValueError(
            f"deepspeed.offload_parameters needs stage 3, the one that spreads weights, got stage {stage}: write "
            "deepspeed=zero3."
        )
    if optimizer != "adamw":
        raise ValueError(
            "under DeepSpeed weights are updated by AdamW, which ZeRO can cut into pieces, got "
            f"optimizer.name={optimizer} and deepspeed.stage={stage}: write optimizer=adamw, or deepspeed=none."
        )
