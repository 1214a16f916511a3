"""A parallelized causal language model that reads one sequence together with the other ranks of its group.

The base model sees this rank's tokens and their positions; its states meet the output head in chunks
(`ringattn.training.loss`). Labels are shifted before they are cut, so that no label is lost at a border. A sequence
with fewer tokens than the ranks need is filled up at its end, where nothing is predicted.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import torch

from ringattn.attention import SequenceParallel
from ringattn.data.sequence import IGNORE, Sequence
from ringattn.training.loss import chunked_cross_entropy, token_losses


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

    def loss_sum(self, sequence: Sequence) -> torch.Tensor:
        """Sum of the losses of this rank's tokens."""
        with self._precision():
            hidden, labels = self._read(sequence)
            return chunked_cross_entropy(
                hidden, self.model.lm_head.weight, labels, chunk=self.chunk, softcap=self.softcap
            )

    @torch.no_grad()
    def sequence_losses(self, sequence: Sequence) -> torch.Tensor:
        """Every token's loss, fp32 [L], 0 where nothing is predicted; the same on each rank of the group."""
        with self._precision():
            hidden, labels = self._read(sequence)
            losses = token_losses(hidden, self.model.lm_head.weight, labels, chunk=self.chunk, softcap=self.softcap)
        filled = self._length_for(sequence.length)
        return self.sp.unshard(losses.float(), dim=0, length=filled)[: sequence.length]

    def _read(self, sequence: Sequence) -> tuple[torch.Tensor, torch.Tensor]:
        length = self._length_for(sequence.length)
        more = length - sequence.length
        # The tail is a document of its own where there are some, and no token before it sees it in any case.
        documents = sequence.documents
        if documents is not None and more:
            documents = (*documents, length)
        states = self.model.model(
            input_ids=self._local(sequence.inputs, more, 0),
            length=length,
            documents=documents,
            use_cache=False,
        ).last_hidden_state
        return states[0].to(self.model.lm_head.weight.dtype), self._local(sequence.targets, more, IGNORE)[0]

    def _length_for(self, length: int) -> int:
        """`length`, or the first one above it at which every rank has a token."""
        while True:
            layout = self.sp.layout(length)
            if min(layout.local_length(rank) for rank in range(self.sp.world)) > 0:
                return length
            length += 1

    def _local(self, tokens: np.ndarray, more: int, filler: int) -> torch.Tensor:
        whole = np.pad(tokens, ((0, 0), (0, more)), constant_values=filler) if more else tokens
        return self.sp.shard(torch.from_numpy(whole).to(self.device), dim=1)

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
