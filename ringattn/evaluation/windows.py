"""Perplexity of a text over several lengths, on the very same tokens.

Windows of the longest length are spread over the text; shorter lengths cut those windows up, so that a shorter context
is all that makes their figures differ (but for what is left where a length does not divide the longest).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ringattn.data.sequence import Sequence as TokenSequence
from ringattn.evaluation.parts import Reader
from ringattn.evaluation.perplexity import LengthReport, length_report
from ringattn.evaluation.window_starts import window_starts
from ringattn.runtime.rows import Rows


def text_perplexity(
    reader: Reader,
    tokens: np.ndarray,
    lengths: Sequence[int],
    *,
    windows: int,
    begin: np.ndarray,
    batch_tokens: int,
    rows: Rows | None = None,
    say: Callable[[str], None],
) -> list[LengthReport]:
    """A report for each length, ascending. Collective; the same on each rank.

    tokens: int [n], the text. begin: what the model's tokenizer puts before a text; the last of it stands in the place
    of each window's first token, so that the model starts as it was trained to. rows: of ranks, which read different
    windows (all the same, unless given).
    """
    rows = rows or Rows()
    reports = []
    for length, starts in window_starts(len(tokens), lengths, windows=windows).items():
        most = min(max(1, batch_tokens // length), -(-len(starts) // rows.number))
        losses = []
        for batch in rows.mine([starts[first : first + most] for first in range(0, len(starts), most)]):
            read = np.stack([tokens[start : start + length + 1] for start in batch])
            inputs, targets = read[:, :-1].astype(np.int64), read[:, 1:].astype(np.int64)
            if len(begin):
                inputs[:, 0] = begin[-1]
            losses.append(_losses(reader, inputs, targets))
        reports.append(length_report(np.concatenate(rows.gather(losses))))
        last = reports[-1].quarters[-1]
        say(f"perplexity at {length:,} tokens: {reports[-1].whole.perplexity:.2f}, last quarter {last.perplexity:.2f}")
    return reports


def _losses(reader: Reader, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return reader.sequence_losses(TokenSequence(inputs=inputs, targets=targets)).cpu().double().numpy()
