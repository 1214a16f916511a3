"""Position ranges, and a report from losses that are written out."""

import math

import numpy as np
import pytest

from ringattn.evaluation.perplexity import position_ranges, report


def test_ranges_double_and_cover_every_position_once():
    assert position_ranges(2048) == [(0, 256), (256, 512), (512, 1024), (1024, 2048)]
    assert position_ranges(100) == [(0, 100)]
    assert position_ranges(600) == [(0, 256), (256, 512), (512, 600)]


def test_a_report_averages_each_range_over_the_sequences():
    losses = np.zeros((2, 512))
    losses[0, :256], losses[1, :256], losses[:, 256:] = 1.0, 3.0, 0.5
    positions = np.tile(np.arange(512), 2)
    made = report(losses.flatten(), np.full(1024, 4.0), positions, sequences=2, length=512)
    assert [(r.start, r.stop, r.tokens, r.loss) for r in made.ranges] == [
        (0, 256, 512, 2.0),
        (256, 512, 512, 0.5),
    ]
    assert made.loss == 1.25 and made.bigram_loss == 4.0
    assert made.perplexity == pytest.approx(math.exp(1.25))
    values = made.to_json()
    assert values["ranges"][1]["perplexity"] == pytest.approx(math.exp(0.5))
    assert values["bigram_perplexity"] == pytest.approx(math.exp(4))


def test_losses_of_other_windows_are_refused():
    with pytest.raises(ValueError, match="evaluate all on the same sequences"):
        report(np.zeros(16), np.zeros(8), np.zeros(16), sequences=2, length=8)


def test_tokens_of_packed_documents_count_where_they_stand_in_their_document():
    made = report(np.array([1.0, 2.0, 5.0, 6.0]), np.ones(4), np.array([0, 1, 0, 300]), sequences=1, length=400)
    assert [(r.start, r.tokens, r.loss) for r in made.ranges] == [(0, 3, 8 / 3), (256, 1, 6.0)]
