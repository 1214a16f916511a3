"""A landmark model's losses on sequences that it reads in windows, with random access to what lies before them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ringattn.attention import SequenceParallel
from ringattn.data.sequence import IGNORE, Sequence
from ringattn.models.landmark.memory import check_machine
from ringattn.models.landmark.read import RandomAccess, check_serves
from ringattn.models.support import text_model
from ringattn.settings.retrieval import RetrievalConfig
from ringattn.training.reader import SequenceReader


class RandomAccessReader(SequenceReader):
    """Reads as `SequenceReader`, with bounded memory whatever the length; for evaluation alone.

    Each sequence is read by all ranks; what is spread over them is the memory of its past blocks.

    Raises ValueError for a model without landmarks, settings that do not serve it, and what this machine can't do.
    """

    def __init__(
        self,
        model: Any,
        retrieval: RetrievalConfig,
        sp: SequenceParallel,
        *,
        device: torch.device,
        chunk: int,
        precision: str = "float32",
    ) -> None:
        check_serves(text_model(model), retrieval)
        check_machine(retrieval)
        super().__init__(model, sp, device=device, chunk=chunk, precision=precision)
        self._retrieval = retrieval

    def loss_sum(self, sequence: Sequence) -> Tensor:
        raise ValueError("random access serves evaluation, and has no gradient: train with SequenceReader.")

    @torch.no_grad()
    def sequence_losses(self, sequence: Sequence) -> Tensor:
        with self._precision():
            return torch.cat(
                [
                    self.module.head_loss(states.flatten(0, 1), targets.flatten(), want="each").view(targets.shape)
                    for states, targets in self._windows(sequence)
                ],
                dim=1,
            ).float()

    @torch.no_grad()
    def predictions(self, sequence: Sequence) -> tuple[Tensor, Tensor]:
        best, lost = [], []
        with self._precision():
            for states, targets in self._windows(sequence):
                wanted = targets != IGNORE
                likeliest, losses = torch.full_like(targets, IGNORE), torch.zeros(targets.shape, device=targets.device)
                if bool(wanted.any()):
                    found, of_found = self.module.head_loss(states[wanted], targets[wanted], want="best")
                    likeliest[wanted], losses[wanted] = found, of_found.float()
                best.append(likeliest)
                lost.append(losses)
        return torch.cat(best, dim=1), torch.cat(lost, dim=1)

    def _windows(self, sequence: Sequence) -> Any:
        """States [B, n, hidden size] and targets [B, n], window by window; each document by itself."""
        inputs, targets = (torch.from_numpy(x) for x in (sequence.inputs, sequence.targets))
        bounds = sequence.documents or (0, sequence.length)
        for start, stop in pairwise(bounds):
            if start == stop:
                continue
            reading = RandomAccess(self.model, self._retrieval, reserve=stop - start, quiet=True)
            at = start
            for states in reading.states(inputs[:, start:stop]):
                yield states, targets[:, at : at + states.shape[1]].to(self.device)
                at += states.shape[1]
