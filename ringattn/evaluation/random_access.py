"""A landmark model's losses on sequences that it reads in windows, with random access to what lies before them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

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
        # What was read last: int64 [B, L], whole.
        self._reading: RandomAccess | None = None
        self._text: Tensor | None = None

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
        asked = (sequence.targets != IGNORE).any(axis=0).nonzero()[0]
        # Where nothing is asked for, nothing need be read that is still remembered.
        first = int(asked[0]) if len(asked) else sequence.length
        best, lost = [], []
        with self._precision():
            for states, targets in self._windows(sequence, first):
                wanted = targets != IGNORE
                likeliest, losses = torch.full_like(targets, IGNORE), torch.zeros(targets.shape, device=targets.device)
                if bool(wanted.any()):
                    found, of_found = self.module.head_loss(states[wanted], targets[wanted], want="best")
                    likeliest[wanted], losses[wanted] = found, of_found.float()
                best.append(likeliest)
                lost.append(losses)
        missing = sequence.length - sum(part.shape[1] for part in best)
        return pad(torch.cat(best, dim=1), (missing, 0), value=IGNORE), pad(torch.cat(lost, dim=1), (missing, 0))

    def _windows(self, sequence: Sequence, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """States [B, n, hidden size] and targets [B, n], window by window, from `first` on or before; each document by
        itself. What a sequence begins with as the last one did is not read again before `first`."""
        inputs, targets = (torch.from_numpy(x) for x in (sequence.inputs, sequence.targets))
        if sequence.documents is not None:
            first = 0
        for start, stop in pairwise(sequence.documents or (0, sequence.length)):
            if start == stop:
                continue
            text = inputs[:, start:stop]
            at = start + self._resume(text, first)
            assert self._reading is not None
            for states in self._reading.states(inputs[:, at:stop]):
                yield states, targets[:, at : at + states.shape[1]].to(self.device)
                at += states.shape[1]
            # Whoever gave it may write other tokens into it.
            self._text = text.clone()

    def _resume(self, text: Tensor, most: int) -> int:
        """Be ready to read `text`; how many of its tokens, up to `most`, are remembered from the one before."""
        before, self._text = self._text, None
        known = 0
        if self._reading is not None and before is not None and len(before) == len(text):
            # A token at least is read.
            common = min(before.shape[1], text.shape[1] - 1, most)
            other = (before[:, :common] != text[:, :common]).any(dim=0).nonzero()
            known = self._reading.rewind(int(other[0, 0]) if len(other) else common)
        if not known:
            # The one before goes first: two need not have room.
            self._reading = None
            self._reading = RandomAccess(self.model, self._retrieval, reserve=text.shape[1], quiet=True)
        return known
