"""A model and the bigram model on the same held-out windows."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist

from ringattn.evaluation.bigram import Bigram
from ringattn.evaluation.perplexity import PositionReport, report
from ringattn.evaluation.window_starts import held_out_starts
from ringattn.training.data import TokenizedText, read_window
from ringattn.training.loop import Rows
from ringattn.training.reader import SequenceReader


def evaluate(
    reader: SequenceReader, text: TokenizedText, *, length: int, sequences: int, vocabulary: int, rows: Rows
) -> PositionReport:
    """Perplexity by position on held-out text; every rank returns the same report.

    Each data-parallel row reads other windows; within a row all ranks read a window together.
    """
    starts = held_out_starts(len(text.held_out), length=length, sequences=sequences)
    losses = torch.zeros(len(starts), length, device=reader.device)
    reader.model.eval()
    for number, start in enumerate(starts):
        if number % rows.number == rows.index:
            losses[number] = reader.sequence_losses(*read_window(text.held_out, start, length))[0]
    if rows.number > 1:
        # Each window is known to every rank of one row: the sum over the world counts it once a rank.
        dist.all_reduce(losses)
        losses /= dist.get_world_size() // rows.number
    bigram = Bigram(text.train, vocabulary=vocabulary)
    windows = [read_window(text.held_out, start, length) for start in starts]
    bigram_losses = np.concatenate([bigram.losses(inputs, targets) for inputs, targets in windows])
    return report(losses.cpu().double().numpy(), bigram_losses)
