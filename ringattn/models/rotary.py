"""Rotary positions of a model whose sequence is spread over ranks."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ringattn.models.attachment import Attachment

# These kinds choose their frequencies by the highest position of the sequence.
_OF_THE_LENGTH = {"dynamic", "longrope"}


class LastPositionHooks:
    """Shows a rotary embedding the last position of the whole sequence behind this rank's own.

    `dynamic` (NTK) and `longrope` scaling read the sequence's length off the highest position that they see, which
    would be another on each rank, and so rotate by other angles.
    """

    def __init__(self, attachment: Attachment) -> None:
        self._attachment = attachment

    def register(self, module: nn.Module) -> None:
        module.register_forward_pre_hook(self.before, with_kwargs=True)
        module.register_forward_hook(self.after)

    def before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if "position_ids" in kwargs:
            return args, {**kwargs, "position_ids": self._extended(kwargs["position_ids"])}
        return (args[0], self._extended(args[1]), *args[2:]), kwargs

    def after(self, module: nn.Module, args: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> Any:
        cos, sin = output
        return cos[:, :-1], sin[:, :-1]

    def _extended(self, positions: Tensor) -> Tensor:
        last = positions.new_full((positions.shape[0], 1), self._attachment.last_position)
        return torch.cat((positions, last), dim=1)


def depends_on_length(module: nn.Module) -> bool:
    """Whether `module` is a rotary embedding that reads the length of the sequence off its positions."""
    kinds = getattr(module, "rope_type", None)
    return not _OF_THE_LENGTH.isdisjoint(kinds.values() if isinstance(kinds, dict) else {kinds})


def warn_of_long_sequence(attachment: Attachment, config: Any) -> None:
    """Say once, on the group's first rank, that positions go beyond those that the model was trained on."""
    trained = getattr(config, "max_position_embeddings", None)
    longest = attachment.last_position + 1
    if trained is None or longest <= trained or attachment.warned:
        return
    attachment.warned = True
    theta = _unscaled_theta(config)
    if theta is None or attachment.sp.rank != 0:
        return
    factor = float(math.ceil(longest / trained))
    setting = {
        "rope_type": "yarn",
        "rope_theta": theta,
        "factor": factor,
        "original_max_position_embeddings": trained,
    }
    warnings.warn(
        f"a sequence of {longest} positions is longer than the model's max_position_embeddings of {trained}, and its "
        f"rotary positions are not scaled: set config.rope_parameters = {setting} and config.max_position_embeddings "
        f"= {int(trained * factor)} before the model is made (in `ringattn train`: "
        f"model.rope_scaling=yarn:{int(trained * factor)})",
        stacklevel=2,
    )


def _unscaled_theta(config: Any) -> float | None:
    """The base of rotary positions without scaling (the first, where layers have their own); None where they are
    scaled, or there are none."""
    parameters = getattr(config, "rope_parameters", None)
    if not parameters:
        return None
    each = [parameters] if "rope_type" in parameters or "rope_theta" in parameters else list(parameters.values())
    if any(one.get("rope_type", "default") != "default" for one in each):
        return None
    theta: float | None = each[0].get("rope_theta")
    return theta
