"""A parallelized causal language model that reads one sequence together with the other ranks of its group.

The base model sees this rank's tokens and their positions; its states meet the output head in chunks
(`ringattn.training.loss`). Labels are shifted before they are cut, so that no label is lost at a border. A sequence
with fewer tokens than the ranks need is filled up at its end, where nothing is predicted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ringattn.attention import SequenceParallel
from ringattn.data.sequence import IGNORE, Sequence
from ringattn.models.attachment import attachment_of
from ringattn.models.cut import Cut
from ringattn.models.support import text_model
from ringattn.training.distillation import Guesses, Mixers
from ringattn.training.loss import (
    Guide,
    chunked_cross_entropy,
    chunked_distillation,
    token_losses,
    token_predictions,
)

# The sum of the losses, the loss of each token, or its likeliest successor and its loss.
Want = Literal["sum", "each", "best"]


class HeadLoss(nn.Module):
    """Losses of states under an output head, whose logits are never whole; a module, so that engines which spread
    weights see that it reads the head's."""

    def __init__(self, head: nn.Module, *, chunk: int, softcap: float | None) -> None:
        super().__init__()
        self.head, self.chunk, self.softcap = head, chunk, softcap

    @property
    def weight(self) -> Tensor:
        """[vocabulary, hidden size]."""
        weight: Tensor = self.head.weight  # type: ignore[assignment]
        return weight

    def forward(self, hidden: Tensor, labels: Tensor, *, want: Want = "sum", guide: Guide | None = None) -> Any:
        """hidden [n, size], labels int64 [n]: what `want` names; a gradient flows to the sum alone. guide: what a
        teacher says of the tokens, a part of the sum."""
        weight = self.weight
        if guide is not None:
            return chunked_distillation(
                hidden.to(weight.dtype), weight, labels, guide, chunk=self.chunk, softcap=self.softcap
            )
        function = {"sum": chunked_cross_entropy, "each": token_losses, "best": token_predictions}[want]
        return function(hidden.to(weight.dtype), weight, labels, chunk=self.chunk, softcap=self.softcap)


class SequenceLoss(nn.Module):
    """From this rank's tokens to its losses: what an engine wraps, and calls."""

    def __init__(self, model: nn.Module, *, chunk: int, learn: Guesses | Mixers | None = None) -> None:
        super().__init__()
        inner = text_model(model)
        softcap = head_softcap(inner)
        self.learn = learn
        self.model = model
        self.head_loss = HeadLoss(inner.get_output_embeddings(), chunk=chunk, softcap=softcap)

    def forward(
        self,
        inputs: Tensor,
        labels: Tensor,
        *,
        length: int,
        documents: tuple[int, ...] | None = None,
        want: Want = "sum",
    ) -> Any:
        """inputs, labels: int64 [B, n], this rank's; length and documents: the whole sequence's."""
        guide = None
        if want == "sum" and isinstance(self.learn, Mixers):
            return self.learn.loss_sum(inputs, labels, length=length, documents=documents)
        if want == "sum" and isinstance(self.learn, Guesses):
            guide = self.learn.guide(inputs, length=length, documents=documents)
        states = (
            text_model(self.model)
            .model(input_ids=inputs, length=length, documents=documents, use_cache=False)
            .last_hidden_state
        )
        if want == "sum":
            return self.head_loss(states.flatten(0, 1), labels.flatten(), guide=guide)
        if want == "each":
            return self.head_loss(states.flatten(0, 1), labels.flatten(), want=want).view(labels.shape)
        # Only the positions that are asked about meet the output head.
        wanted = labels != IGNORE
        best, losses = self.head_loss(states[wanted], labels[wanted], want=want)
        predicted, found = torch.full_like(labels, IGNORE), torch.zeros(labels.shape, device=labels.device)
        predicted[wanted], found[wanted] = best, losses.float()
        return predicted, found


class SequenceReader:
    """Losses of a whole sequence, computed where its tokens lie.

    Args:
        model: a causal LM that `ringattn.parallelize(model, sp)` returned, or a PEFT model around one.
        sp: the ranks that share a sequence.
        device: where the model is.
        chunk: tokens whose logits exist at one time.
        precision: `float32`, or `bfloat16` for autocast.
        offload: keep what autograd saves in the host's memory, pinned where there is a GPU.
        learn: what a teacher adds to the loss that is trained, or puts in its place; evaluation is without it.
    """

    def __init__(
        self,
        model: Any,
        sp: SequenceParallel,
        *,
        device: torch.device,
        chunk: int,
        precision: str = "float32",
        offload: bool = False,
        learn: Guesses | Mixers | None = None,
    ) -> None:
        self.model, self.sp, self.device = model, sp, device
        attachment = attachment_of(text_model(model))
        self._cut = Cut(sp) if attachment is None else attachment.cut
        self.module = SequenceLoss(model, chunk=chunk, learn=learn)
        # What runs the module: itself, or an engine that wraps it.
        self.call: Callable[..., Any] = self.module
        self.autocast = precision == "bfloat16"
        self.offload = offload

    def loss_sum(self, sequence: Sequence) -> Tensor:
        """Sum of the losses of this rank's tokens of a sequence that all ranks of the group read."""
        keep: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if self.offload:
            keep = torch.autograd.graph.save_on_cpu(pin_memory=self.device.type == "cuda")
        with self._precision(), keep:
            return self._read(sequence)

    @torch.no_grad()
    def sequence_losses(self, sequence: Sequence) -> Tensor:
        """Every token's loss, fp32 [B, L], 0 where nothing is predicted; the same on each rank of the group."""
        with self._precision():
            losses = self._read(sequence, want="each")
        return self._whole(losses.float(), sequence)

    @torch.no_grad()
    def predictions(self, sequence: Sequence) -> tuple[Tensor, Tensor]:
        """What the model would write where there are targets: the likeliest token, int64 [B, L], and the target's loss,
        fp32 [B, L]; -100 and 0 elsewhere. The same on each rank of the group.
        """
        with self._precision():
            predicted, losses = self._read(sequence, want="best")
        return self._whole(predicted, sequence), self._whole(losses, sequence)

    def _whole(self, local: Tensor, sequence: Sequence) -> Tensor:
        filled, documents = self._filled(sequence)
        return self._cut.unshard(local, 1, filled, documents)[:, : sequence.length]

    def _read(self, sequence: Sequence, *, want: Want = "sum") -> Any:
        length, documents = self._filled(sequence)
        more = length - sequence.length
        inputs = self._local(sequence.inputs, more, 0, documents)
        labels = self._local(sequence.targets, more, IGNORE, documents)
        return self.call(inputs, labels, length=length, documents=documents, want=want)

    def _filled(self, sequence: Sequence) -> tuple[int, tuple[int, ...] | None]:
        """The sequence's length, or the first one above it at which every rank has a token, and its documents.

        The tail is a document of its own where there are some, and no token before it sees it in any case.
        """
        length = sequence.length
        while True:
            documents = sequence.documents
            if documents is not None and length > sequence.length:
                documents = (*documents, length)
            layout = self._cut.layout(length, documents)
            if min(layout.local_length(rank) for rank in range(self.sp.world)) > 0:
                return length, documents
            length += 1

    def _local(self, tokens: np.ndarray, more: int, filler: int, documents: tuple[int, ...] | None) -> Tensor:
        whole = np.pad(tokens, ((0, 0), (0, more)), constant_values=filler) if more else tokens
        return self._cut.shard(torch.from_numpy(whole).to(self.device), 1, documents)

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.autocast:
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()


def head_softcap(model: Any) -> float | None:
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
