"""A model and the bigram model on the same held-out sequences."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist

from ringattn.data.sequence import IGNORE
from ringattn.data.token_data import TokenData
from ringattn.evaluation.bigram import Bigram
from ringattn.evaluation.perplexity import PositionReport, report
from ringattn.runtime.rows import Rows
from ringattn.training.reader import SequenceReader


def evaluate(
    reader: SequenceReader, data: TokenData, *, length: int, sequences: int, vocabulary: int, rows: Rows
) -> PositionReport:
    """Perplexity by position in the document on held-out text; every rank returns the same report.

    Each data-parallel row reads other sequences; within a row all ranks read a sequence together.
    """
    chosen = data.held_out(sequences)
    losses = torch.zeros(len(chosen), length, device=reader.device)
    reader.model.eval()
    for number, sequence in enumerate(chosen):
        if number % rows.number == rows.index:
            losses[number, : sequence.length] = reader.sequence_losses(sequence)
    if rows.number > 1:
        # Each sequence is known to every rank of one row: the sum over the world counts it once a rank.
        dist.all_reduce(losses)
        losses /= dist.get_world_size() // rows.number
    bigram = Bigram(data.sample(), vocabulary=vocabulary)
    found = losses.cpu().double().numpy()
    model, simple, positions = [], [], []
    for number, sequence in enumerate(chosen):
        counts = sequence.targets[0] != IGNORE
        inputs, targets = sequence.inputs[0][counts], sequence.targets[0][counts]
        model.append(found[number, : sequence.length][counts])
        simple.append(bigram.losses(inputs, targets))
        positions.append(sequence.positions()[counts])
    return report(
        np.concatenate(model),
        np.concatenate(simple),
        np.concatenate(positions),
        sequences=len(chosen),
        length=max(sequence.length for sequence in chosen),
    )
