"""A bigram model with interpolated Kneser-Ney smoothing: the floor that a language model must get below.

S. Chen and J. Goodman, "An empirical study of smoothing techniques for language modeling" (1999), section
2.7:

    p(w | v) = max(c(v w) - d, 0) / c(v) + d * n(v) / c(v) * p_continuation(w)

where c counts pairs, n(v) how many different words follow v, p_continuation(w) is the share of different
pairs that end in w, and d = n1 / (n1 + 2 n2) from the numbers of pairs seen once and twice. Words that no
pair ends in get half a pair, so that every token of the vocabulary has a probability.
"""

from __future__ import annotations

import numpy as np

UNSEEN_PAIRS = 0.5


class Bigram:
    """Counted on training tokens, int [n]; sparse, so that any vocabulary fits."""

    def __init__(self, tokens: np.ndarray, *, vocabulary: int) -> None:
        if len(tokens) < 2:
            raise ValueError(f"a bigram model needs at least two tokens, got {len(tokens)}: give a longer text.")
        self.vocabulary = vocabulary
        first, second = tokens[:-1].astype(np.int64), tokens[1:].astype(np.int64)
        self._pairs, self._counts = np.unique(first * vocabulary + second, return_counts=True)
        self._first_counts = np.bincount(first, minlength=vocabulary)
        self._followers = np.bincount(self._pairs // vocabulary, minlength=vocabulary)
        endings = np.bincount(self._pairs % vocabulary, minlength=vocabulary) + UNSEEN_PAIRS
        self._continuation = endings / endings.sum()
        once, twice = int((self._counts == 1).sum()), int((self._counts == 2).sum())
        self.discount = once / (once + 2 * twice) if once else 0.0

    def losses(self, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """-log p(target | input) in nats, fp64, same shape as both."""
        first, second = inputs.astype(np.int64), targets.astype(np.int64)
        wanted = first * self.vocabulary + second
        place = np.minimum(np.searchsorted(self._pairs, wanted), len(self._pairs) - 1)
        count = np.where(self._pairs[place] == wanted, self._counts[place], 0)
        seen = np.maximum(self._first_counts[first], 1)
        direct = np.maximum(count - self.discount, 0) / seen
        # A word never seen first leaves all its weight to the continuation distribution.
        left = np.where(self._first_counts[first] > 0, self.discount * self._followers[first] / seen, 1.0)
        with np.errstate(divide="ignore"):
            return -np.log(direct + left * self._continuation[second])
