"""Sequences that begin alike: what is asked at their ends is answered as if each were read from its start."""

import numpy as np
import pytest
import torch
from ranks import run_ranks
from tiny_models import make_model

from ringattn.attention import SequenceParallel
from ringattn.data.sequence import IGNORE
from ringattn.data.sequence import Sequence as TokenSequence
from ringattn.evaluation.random_access import RandomAccessReader
from ringattn.models.landmark import to_landmark
from ringattn.models.parallelize import parallelize
from ringattn.settings.retrieval import RetrievalConfig

LENGTH = 90


def sequences():
    """Each begins as the one before it, up to some token; one is in a batch of two, and one asks early."""
    draw = np.random.default_rng(0)
    tokens = draw.integers(0, 60, (1, LENGTH))
    made = []
    for same, rows, first in ((0, 1, 80), (89, 1, 85), (50, 1, 80), (50, 2, 80), (70, 2, 40), (90, 1, 0), (90, 1, 89)):
        tokens = np.concatenate((tokens[:1, :same], draw.integers(0, 60, (1, LENGTH - same))), axis=1).repeat(rows, 0)
        targets = np.full_like(tokens, IGNORE)
        targets[:, first:] = draw.integers(0, 60, (rows, LENGTH - first))
        made.append(TokenSequence(inputs=tokens, targets=targets))
    return made


def answers(rank, *, anew=False):
    """(predictions, losses) of each sequence, and how many tokens were read for it."""
    sp = SequenceParallel(schedule="ring")
    model = parallelize(to_landmark(make_model("llama", attention="sdpa"), 4).eval(), sp)
    config, read, found = RetrievalConfig(k=2, window=12), [], []
    model.model.norm.register_forward_hook(lambda module, given, out: read.append(out.shape[1]))

    def reader():
        return RandomAccessReader(model, config, sp, device=torch.device("cpu"), chunk=16)

    one = reader()
    for sequence in sequences():
        read.clear()
        answered = (reader() if anew else one).predictions(sequence)
        found.append(([part.numpy() for part in answered], sum(read)))
    return found


def test_a_text_that_is_written_over_is_read_again():
    draw = np.random.default_rng(1)
    sp = SequenceParallel(schedule="ring")
    model = parallelize(to_landmark(make_model("llama", attention="sdpa"), 4).eval(), sp)

    def reader():
        return RandomAccessReader(model, RetrievalConfig(k=2, window=12), sp, device=torch.device("cpu"), chunk=16)

    one, tokens, targets = reader(), np.zeros((1, LENGTH), dtype=np.int64), np.full((1, LENGTH), IGNORE)
    for asked in (LENGTH, LENGTH - 1, 3):
        tokens[:] = draw.integers(0, 60, (1, LENGTH))
        targets[:, asked:] = 7
        for stop in (LENGTH, 60):
            part = TokenSequence(inputs=tokens[:, :stop], targets=targets[:, :stop])
            for mine, theirs in zip(one.predictions(part), reader().predictions(part)):
                np.testing.assert_allclose(mine, theirs, atol=1e-6)


@pytest.mark.parametrize("world", [1, 2])
def test_a_beginning_that_is_known_is_not_read_again(world):
    expected = answers(0, anew=True)
    assert [tokens for _, tokens in expected] == [LENGTH] * 7
    for found in run_ranks(world, answers, threads=True):
        assert [tokens for _, tokens in found] == [90, 90 - 84, 90 - 48, 90, 90 - 36, 90, 90 - 84]
        for (mine, _), (theirs, _) in zip(found, expected):
            assert np.array_equal(mine[0], theirs[0])
            np.testing.assert_allclose(mine[1], theirs[1], atol=1e-6)
