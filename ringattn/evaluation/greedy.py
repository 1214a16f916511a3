"""Greedy decoding without a cache, in a few passes over whole sequences.

A guess at the continuation is read as if it were written; wherever the model would write something else, that becomes
the next guess. After k passes the first k tokens are those of greedy decoding, and a guess that the model confirms
whole is greedy decoding's result: Jacobi decoding (A. Santilli et al., "Accelerating Transformer Inference for
Translation via Parallel Decoding", 2023, section 3). With the expected answer as the first guess one pass is enough
for a model that gives it. What stands behind the guess is never seen, so that the length stays the same in each pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ringattn.data.sequence import Sequence as TokenSequence
from ringattn.evaluation.parts import Reader
from ringattn.training.loss import IGNORE


def decode(
    reader: Reader,
    tokens: np.ndarray,
    spans: Sequence[tuple[int, int]],
    *,
    done: Callable[[int, np.ndarray], bool] | None = None,
) -> np.ndarray:
    """What greedy decoding writes at `spans`, (start, stop) in each row. Collective over the reader's ranks.

    tokens: int64 [B, L], with a guess at each span. done: whether a row's first tokens, which are certain, are all that
    is wanted; what is behind them then is still a guess. Returns a copy, int64 [B, L].
    """
    tokens = tokens.copy()
    certain = [start for start, _ in spans]
    while any(place < stop for place, (_, stop) in zip(certain, spans)):
        targets = np.full_like(tokens, IGNORE)
        for row, (_, stop) in enumerate(spans):
            targets[row, certain[row] - 1 : stop - 1] = tokens[row, certain[row] : stop]
        predicted = reader.predictions(TokenSequence(inputs=tokens, targets=targets))[0].cpu().numpy()
        for row, (start, stop) in enumerate(spans):
            here = certain[row]
            if here >= stop:
                continue
            written = predicted[row, here - 1 : stop - 1]
            differs = np.flatnonzero(written != tokens[row, here:stop])
            certain[row] = stop if not len(differs) else here + int(differs[0]) + 1
            tokens[row, here:stop] = written
            if done is not None and done(row, tokens[row, start : certain[row]]):
                certain[row] = stop
    return tokens
