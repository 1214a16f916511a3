"""Where windows of a text start: spread over it, sharing no target. No torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


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
    fit = (tokens - 1) // longest
    chosen = np.unique(np.linspace(0, fit - 1, min(fit, windows)).round().astype(int))
    starts = [int(window) * longest for window in chosen]
    return {
        length: [start + part * length for start in starts for part in range(longest // length)] for length in lengths
    }
