"""A parallelized causal language model that reads sequences together with the other ranks of its group.

The base model sees this rank's tokens and their positions; its states meet the output head in chunks
(`ringattn.training.loss`). Labels are shifted before they are cut, so that no label is lost at a border.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import torch

from ringattn.attention import SequenceParallel
from ringattn.training.loss import IGNORE, chunked_cross_entropy, token_losses, token_predictions


class SequenceReader:
    """Losses of a whole sequence, computed where its tokens lie.

    Args:
        model: a causal LM that `ringattn.parallelize(model, sp)` returned.
        sp: the ranks that share a sequence.
        device: where the model is.
        chunk: tokens whose logits exist at one time.
        precision: `float32`, or `bfloat16` for autocast.
    """

    def __init__(
        self,
        model: Any,
        sp: SequenceParallel,
        *,
        device: torch.device,
        chunk: int,
        precision: str = "float32",
    ) -> None:
        self.model, self.sp, self.device, self.chunk = model, sp, device, chunk
        self.autocast = precision == "bfloat16"
        self.softcap = _head_softcap(model)

    def loss_sum(self, inputs: np.ndarray, targets: np.ndarray) -> torch.Tensor:
        """Sum of the losses of this rank's tokens; `inputs` and `targets` are full sequences, int64 [B, L]."""
        with self._precision():
            hidden, labels = self._read(inputs, targets)
            return chunked_cross_entropy(
                hidden.flatten(0, 1),
                self.model.lm_head.weight,
                labels.flatten(),
                chunk=self.chunk,
                softcap=self.softcap,
            )

    @torch.no_grad()
    def sequence_losses(self, inputs: np.ndarray, targets: np.ndarray) -> torch.Tensor:
        """Every token's loss, fp32 [B, L], the same on each rank of the group."""
        with self._precision():
            hidden, labels = self._read(inputs, targets)
            losses = token_losses(
                hidden.flatten(0, 1),
                self.model.lm_head.weight,
                labels.flatten(),
                chunk=self.chunk,
                softcap=self.softcap,
            )
        return self.sp.unshard(losses.view(labels.shape).float(), dim=1, length=inputs.shape[1])

    @torch.no_grad()
    def predictions(self, inputs: np.ndarray, targets: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """What the model would write where `targets` is not -100: the likeliest token, int64 [B, L], and the target's
        loss, fp32 [B, L]; -100 and 0 elsewhere. The same on each rank of the group. Only those positions meet the
        output head.
        """
        with self._precision():
            hidden, labels = self._read(inputs, targets)
            wanted = labels != IGNORE
            best, losses = token_predictions(
                hidden[wanted], self.model.lm_head.weight, labels[wanted], chunk=self.chunk, softcap=self.softcap
            )
        predicted, found = torch.full_like(labels, IGNORE), torch.zeros(labels.shape, device=labels.device)
        predicted[wanted], found[wanted] = best, losses.float()
        length = inputs.shape[1]
        return self.sp.unshard(predicted, dim=1, length=length), self.sp.unshard(found, dim=1, length=length)

    def _read(self, inputs: np.ndarray, targets: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """This rank's states [B, n, hidden size] and labels [B, n]."""
        length = inputs.shape[1]
        positions = self.sp.positions(length).to(self.device)
        states = self.model.model(
            input_ids=self._local(inputs),
            position_ids=positions[None],
            length=length,
            use_cache=False,
        ).last_hidden_state
        return states.to(self.model.lm_head.weight.dtype), self._local(targets)

    def _local(self, tokens: np.ndarray) -> torch.Tensor:
        return self.sp.shard(torch.from_numpy(tokens).to(self.device), dim=1)

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.autocast:
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()


def _head_softcap(model: Any) -> float | None:
    """Gemma 2's cap on the logits.

    Raises:
        ValueError: the output head does something else than multiply by a matrix.
    """
    head = getattr(model, "lm_head", None)
    if head is None or getattr(head, "bias", None) is not None or not hasattr(model, "model"):
        raise ValueError(
            "training reads the base model as `model.model` and multiplies its states by "
            f"`model.lm_head.weight`, but {type(model).__name__} has no such pair, or a bias in its head: "
            "use a LLaMA-like causal LM."
        )
    for name in ("logits_scaling", "logit_scale"):
        if getattr(model.config, name, None) not in (None, 1, 1.0):
            raise ValueError(
                "models that scale their logits are not supported, got "
                f"{name}={getattr(model.config, name)} in {type(model).__name__}: use a LLaMA-like causal LM."
            )
    cap: float | None = getattr(model.config, "final_logit_softcapping", None)
    return cap
