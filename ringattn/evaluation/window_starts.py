"""Where windows of a text start: spread over it, sharing no target. No torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def held_out_starts(tokens: int, *, length: int, sequences: int) -> list[int]:
    """Starts of at most `sequences` windows of `length + 1` tokens that share no target, spread over the
    text.
    """
    fit = (tokens - 1) // length
    if fit < 1:
        raise ValueError(
            f"the held-out text has {tokens} tokens, less than one sequence of {length} + 1: lower "
            "trainer.sequence_length or raise data.held_out."
        )
    chosen = np.unique(np.linspace(0, fit - 1, min(fit, sequences)).round().astype(int))
    return [int(window) * length for window in chosen]


def window_starts(tokens: int, lengths: Sequence[int], *, windows: int) -> dict[int, list[int]]:
    """Where the windows of each length start.

    Raises:
        ValueError: the text is shorter than one window of the longest length.
    """
    longest = max(lengths)
    if tokens <= longest:
        raise ValueError(
            f"the text must be longer than one sequence, but it has {tokens} tokens and lengths go to {longest}: lower "
            "lengths or give a longer text."
        )
    starts = held_out_starts(tokens, length=longest, sequences=windows)
    return {
        length: [start + part * length for start in starts for part in range(longest // length)] for length in lengths
    }
