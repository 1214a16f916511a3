"""What a rank trains in a step, as a value: lengths, ranks, schedules and what is kept in how many bytes. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ringattn.sequence.layout import make_layout

FP32 = 4
BF16 = 2
# Lengths are asked about in this many tokens a rank: a multiple that layouts cut evenly.
GRAIN = 128


class Precision(str, Enum):
    """What weights and gradients are kept in.

    WHOLE: weights, gradients, moments and the residual stream in fp32; with activations of 2 bytes matrix products take
    bf16 copies of weights and activations (torch.autocast, which `trainer.precision=bfloat16` turns on). MASTER:
    weights, gradients and activations in bf16, and in the optimizer an fp32 master copy of the weights beside the
    moments: 2 + 2 + 12 bytes a weight with Adam (ZeRO, arXiv 1910.02054, section 3.1).
    """

    WHOLE = "whole"
    MASTER = "master"


@dataclass(frozen=True, kw_only=True)
class TrainingStep:
    """What a rank trains.

    length: tokens of a sequence over its `ranks` ranks. data_parallel: rows of such ranks, each with sequences of its
        own. accumulation: sequences of a row before the optimizer's step.
    backward: another schedule for the backward than `schedule`.
    item_bytes: of an activation, 4 in fp32 and 2 in bf16.
    moments: numbers that the optimizer keeps for each weight of a layer's matrices, and of the rest: (2, 2) for AdamW,
        (1, 2) for Muon beside AdamW.
    zero: DeepSpeed's ZeRO stage (arXiv 1910.02054, section 5), which divides over all ranks 1: optimizer state, 2:
        gradients too, 3: weights too.
    mlp_chunk: tokens whose feed-forward activations exist at one time; all unless given.
    trained: the share of the weights that have gradients and moments, 1 unless adapters are trained.
    threads: of a rank that computes on a CPU.
    state_route: of linear layers' states.
    """

    length: int
    ranks: int
    schedule: str
    layout: str
    item_bytes: int
    loss_chunk: int
    gradient_checkpointing: bool
    keep_attention: bool
    backward: str | None = None
    precision: Precision = Precision.WHOLE
    moments: tuple[int, int] = (2, 2)
    accumulation: int = 1
    data_parallel: int = 1
    zero: int = 0
    mlp_chunk: int | None = None
    trained: float = 1.0
    threads: int = 1
    state_route: str = "allgather"

    def __post_init__(self) -> None:
        if self.zero not in range(4):
            raise ValueError(
                f"zero is a stage of ZeRO, 0 to 3, got {self.zero}: write 0 for whole states on every rank"
            )
        if self.item_bytes not in (BF16, FP32) or (self.precision is Precision.MASTER and self.item_bytes != BF16):
            raise ValueError(
                "activations have 4 bytes an element, or 2, as they must with bf16 weights, got "
                f"item_bytes={self.item_bytes} and precision={self.precision.value}: write item_bytes=2"
            )
        if min(self.ranks, self.data_parallel, self.accumulation, self.threads) < 1:
            raise ValueError(
                "ranks, data_parallel, accumulation and threads are numbers above 0, got "
                f"{self.ranks}, {self.data_parallel}, {self.accumulation} and {self.threads}: write 1"
            )

    @property
    def weight_bytes(self) -> int:
        """Of a weight, of its gradient, and of an element of the residual stream."""
        return BF16 if self.precision is Precision.MASTER else FP32

    @property
    def copy_bytes(self) -> int:
        """Of autocast's copy of an element that a matrix product reads."""
        return BF16 if self.weight_bytes > self.item_bytes else 0

    def norm_bytes(self, readers: int) -> int:
        """What an RMS norm keeps for one channel of a token, where `readers` matrices read its result.

        Its input in fp32, the input over its root mean square, and the result: under autocast each matrix has a bf16
        copy of that instead. The bf16 stream's input is an fp32 copy.
        """
        return FP32 + self.weight_bytes + (readers * self.copy_bytes or self.weight_bytes)

    @property
    def world(self) -> int:
        """All ranks."""
        return self.ranks * self.data_parallel

    @property
    def tokens(self) -> int:
        """Of the rank that has most."""
        if self.length % (self.ranks * GRAIN) == 0:
            return self.length // self.ranks
        layout = make_layout(self.layout, self.length, self.ranks)
        return max(layout.local_length(rank) for rank in range(self.ranks))
