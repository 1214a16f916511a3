"""AdamW, or Muon for the hidden matrices beside AdamW for the rest, and the learning rate of a step.

Muon (K. Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/) replaces the momentum of a matrix by
the nearest orthogonal one, found by five Newton-Schulz steps. On short runs it needs about half the tokens of
AdamW. torch's own `torch.optim.Muon` iterates in bf16, which a CPU without bf16 units runs a hundred times
slower than fp32: here the iteration runs in fp32 on a CPU and in bf16 on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

from ringattn.settings.optimizer import OptimizerConfig

# Coefficients of the quintic iteration, from the Muon post; they trade an exact fixed point for fast growth.
QUINTIC = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
MOMENTUM = 0.95


def learning_rate_factor(step: int, *, steps: int, warmup: float, final: float) -> float:
    """Fraction of the peak rate at `step` (from 0): linear over `warmup` of the steps, then a cosine to
    `final`.
    """
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    progress = (step - rising) / max(1, steps - rising)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


class Optimizer:
    """The optimizers of a run behind one `step`."""

    def __init__(self, model: torch.nn.Module, config: OptimizerConfig, *, steps: int) -> None:
        self.config, self.steps = config, steps
        matrices, rest = split_parameters(model) if config.name == "muon" else ([], trained_parameters(model))
        adamw = torch.optim.AdamW(
            rest,
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
        )
        self.parts: list[torch.optim.Optimizer] = [adamw]
        if matrices:
            self.parts.append(Muon(matrices, lr=config.matrix_learning_rate, weight_decay=config.weight_decay))
        self._peaks = [[group["lr"] for group in part.param_groups] for part in self.parts]

    def learning_rate(self, step: int) -> float:
        """AdamW's at `step` (from 0)."""
        return self.config.learning_rate * self._factor(step)

    def step(self, step: int) -> float:
        """Update the weights at `step` (from 0) and clear the gradients; returns AdamW's learning rate."""
        factor = self._factor(step)
        for part, peaks in zip(self.parts, self._peaks):
            for group, peak in zip(part.param_groups, peaks):
                group["lr"] = peak * factor
            part.step()
            part.zero_grad(set_to_none=True)
        return self.learning_rate(step)

    def tensors(self, parameter: torch.nn.Parameter) -> dict[str, torch.Tensor]:
        """The moments of one parameter by name, of its shape; zeros where it was never updated."""
        part, names = self._part(parameter)
        state = part.state.get(parameter, {})
        return {name: state.get(name, torch.zeros_like(parameter)) for name in names}

    def restore(self, parameter: torch.nn.Parameter, tensors: dict[str, torch.Tensor]) -> None:
        """Set what `tensors` gave."""
        part, names = self._part(parameter)
        like = {name: tensors[name].to(parameter.device, parameter.dtype).clone() for name in names}
        part.state[parameter].update(like)

    def start_restore(self, updates: int) -> None:
        """The moments that follow are of so many updates: AdamW corrects its means by their number."""
        for group in self.parts[0].param_groups:
            for parameter in group["params"]:
                self.parts[0].state[parameter]["step"] = torch.tensor(float(updates))

    def _factor(self, step: int) -> float:
        return learning_rate_factor(step, steps=self.steps, warmup=self.config.warmup, final=self.config.final)

    def _part(self, parameter: torch.nn.Parameter) -> tuple[torch.optim.Optimizer, tuple[str, ...]]:
        for part in self.parts:
            if any(parameter is own for group in part.param_groups for own in group["params"]):
                return part, ("momentum",) if isinstance(part, Muon) else ("exp_avg", "exp_avg_sq")
        raise ValueError("a parameter that no optimizer of this run updates has no moments: pass a trained one.")


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal; `lr` is the size of an update's singular values for a square matrix."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], *, lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise ValueError("Muon takes no closure: compute the gradients first, then call step().")
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                momentum = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
                momentum.lerp_(matrix.grad, 1 - MOMENTUM)
                update = orthogonalize(matrix.grad.lerp(momentum, MOMENTUM))
                # A tall matrix's orthogonal update moves its outputs less: the post's correction.
                scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-group["lr"] * scale)


def orthogonalize(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix with its singular values brought close to one (0.7 to 1.2), same shape and dtype."""
    a, b, c = QUINTIC
    x = matrix.bfloat16() if matrix.is_cuda else matrix.float()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


def trained_parameters(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def split_parameters(model: torch.nn.Module) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    """(matrices inside the layers, everything else): embeddings and the output head are lookups, not maps."""
    lookups = {id(p) for m in model.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
    head = getattr(model, "lm_head", None)
    if head is not None:
        lookups |= {id(p) for p in head.parameters()}
    matrices: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for parameter in trained_parameters(model):
        inside = parameter.ndim == 2 and id(parameter) not in lookups
        (matrices if inside else rest).append(parameter)
    return matrices, rest
