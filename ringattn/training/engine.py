"""What holds the weights while they are trained: plain torch here, DeepSpeed in `ringattn.training.zero`.

The loop calls an engine and knows neither. To the engine, data-parallel and sequence-parallel ranks are one world: each
rank's gradient is averaged over all of them, and `ringattn.training.loss.local_loss_scale` makes that average right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ringattn.settings.optimizer import OptimizerConfig
from ringattn.training.gradients import average_gradients, clip_gradients
from ringattn.training.optimizer import Optimizer
from ringattn.training.reader import SequenceReader

# The name of a trained weight's own values among what `state` gives; the others are the optimizer's.
WEIGHT = "weight"


@dataclass(frozen=True, kw_only=True)
class Update:
    """What a step did. norm: of the averaged gradient, before clipping; applied: false where it was not finite."""

    norm: float
    learning_rate: float
    applied: bool


class Engine(Protocol):
    """Weights, gradients and optimizer of one run. Every method is called by all ranks together."""

    reader: SequenceReader

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of one accumulation part's scaled loss."""

    def step(self, step: int) -> Update:
        """Average, clip and apply the gradients of `step` (from 0), and clear them."""

    def trained(self) -> list[str]:
        """The names of the trained weights, the same on every rank."""

    def state(self, name: str) -> dict[str, Tensor]:
        """All of one trained weight, whole, fp32 on the CPU: itself under `WEIGHT`, and the optimizer's tensors."""

    def start_restore(self, updates: int) -> None:
        """What follows is of a run that had updated its weights so many times."""

    def restore(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Set what `state` gave, perhaps on another number of ranks or another engine. The weight itself must have
        been in the model when the engine was made; here its fp32 value counts."""

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """What the model saves: tensors by name, whole, one after another, on the CPU; trained weights in fp32."""


class TorchEngine:
    """Weights, gradients and optimizer whole on every rank; gradients averaged in fp32."""

    def __init__(self, reader: SequenceReader, config: OptimizerConfig, *, steps: int, accumulation: int) -> None:
        self.reader = reader
        self._config, self._accumulation = config, accumulation
        self.optimizer = Optimizer(reader.model, config, steps=steps)
        self._named = {name: p for name, p in reader.model.named_parameters() if p.requires_grad}

    def backward(self, loss: Tensor) -> None:
        # Each part is averaged over the accumulation steps too: the scale has undone that already.
        (loss / self._accumulation).backward()

    def step(self, step: int) -> Update:
        average_gradients(self._named.values())
        norm = clip_gradients(self._named.values(), self._config.clip)
        if not math.isfinite(norm):
            for parameter in self._named.values():
                parameter.grad = None
            return Update(norm=norm, learning_rate=self.optimizer.learning_rate(step), applied=False)
        return Update(norm=norm, learning_rate=self.optimizer.step(step), applied=True)

    def trained(self) -> list[str]:
        return list(self._named)

    def state(self, name: str) -> dict[str, Tensor]:
        parameter = self._named[name]
        tensors = {WEIGHT: parameter.detach()} | self.optimizer.tensors(parameter)
        return {key: tensor.detach().to("cpu", torch.float32) for key, tensor in tensors.items()}

    def start_restore(self, updates: int) -> None:
        self.optimizer.start_restore(updates)

    @torch.no_grad()
    def restore(self, name: str, tensors: dict[str, Tensor]) -> None:
        parameter = self._named[name]
        parameter.copy_(tensors[WEIGHT])
        self.optimizer.restore(parameter, {key: value for key, value in tensors.items() if key != WEIGHT})

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self.reader.model.state_dict().items():
            yield name, tensor.detach().cpu()
