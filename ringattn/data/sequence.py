"""One sequence as a model reads it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

IGNORE = -100  # The target where nothing is predicted.


@dataclass(frozen=True, kw_only=True)
class Sequence:
    """A whole sequence, the same on every rank that shares it; for evaluation, several of one length.

    inputs, targets: int64 [B, L], B is 1 in training; the target of a position is the token after it, or `IGNORE`.
    documents: cumulative lengths of packed documents, from 0 to L; None where attention sees the whole sequence.
    """

    inputs: np.ndarray
    targets: np.ndarray
    documents: tuple[int, ...] | None = None

    @property
    def length(self) -> int:
        return int(self.inputs.shape[1])

    @property
    def num_targets(self) -> int:
        """Targets that count."""
        return int((self.targets != IGNORE).sum())

    def positions(self) -> np.ndarray:
        """int64 [L]: each token's place in its document."""
        places = np.arange(self.length)
        if self.documents is None:
            return places
        bounds = np.asarray(self.documents)
        return places - np.repeat(bounds[:-1], np.diff(bounds))
