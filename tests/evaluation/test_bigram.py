"""Kneser-Ney by hand on a text of seven tokens, and as a distribution on a larger one."""

import math

import numpy as np
import pytest

from ringattn.evaluation.bigram import UNSEEN_PAIRS, Bigram

# a b a b a c a: pairs ab 2, ba 2, ac 1, ca 1; a is followed 3 times, by b and c.
TOKENS = np.array([0, 1, 0, 1, 0, 2, 0], dtype=np.int32)


def test_probabilities_are_the_formula():
    bigram = Bigram(TOKENS, vocabulary=4)
    assert bigram.discount == 2 / (2 + 2 * 2)  # Two pairs once, two pairs twice.
    endings = [2 + UNSEEN_PAIRS, 1 + UNSEEN_PAIRS, 1 + UNSEEN_PAIRS, UNSEEN_PAIRS]
    continuation = [e / sum(endings) for e in endings]
    d = bigram.discount
    expected = [
        (2 - d) / 3 + d * 2 / 3 * continuation[1],  # b after a
        d * 2 / 3 * continuation[3],  # the unseen d after a
        continuation[1],  # b after d, which nothing follows
    ]
    losses = bigram.losses(np.array([0, 0, 3]), np.array([1, 3, 1]))
    np.testing.assert_allclose(losses, [-math.log(p) for p in expected], rtol=1e-12)


def test_probabilities_after_any_token_sum_to_one():
    vocabulary = 30
    tokens = np.random.default_rng(0).zipf(1.5, 500) % vocabulary
    bigram = Bigram(tokens.astype(np.int32), vocabulary=vocabulary)
    first, second = np.meshgrid(np.arange(vocabulary), np.arange(vocabulary), indexing="ij")
    np.testing.assert_allclose(np.exp(-bigram.losses(first, second)).sum(axis=1), 1, rtol=1e-9)


def test_it_learns_what_follows_what():
    tokens = np.tile(np.arange(5), 100)
    losses = Bigram(tokens, vocabulary=5).losses(tokens[:-1], tokens[1:])
    assert losses.shape == (499,) and losses.mean() < 0.01


def test_one_token_is_refused():
    with pytest.raises(ValueError, match="needs at least two tokens, got 1"):
        Bigram(np.zeros(1, dtype=np.int32), vocabulary=4)
