"""Position ranges, and a report from losses that are written out."""

import math

import numpy as np
import pytest

from ringattn.evaluation.perplexity import length_report, position_ranges, report
from ringattn.evaluation.window_starts import window_starts


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


def test_a_length_s_report_has_ranges_quarters_and_their_standard_errors():
    losses = np.zeros((3, 512))
    losses[0], losses[1], losses[2, 384:] = 1.0, 3.0, 6.0
    made = length_report(losses)
    assert (made.length, made.sequences) == (512, 3)
    assert [(s.start, s.stop) for s in made.ranges] == [(0, 256), (256, 512)]
    assert [(s.start, s.stop, s.tokens) for s in made.quarters] == [(128 * q, 128 * q + 128, 384) for q in range(4)]
    assert [s.loss for s in made.quarters] == pytest.approx([4 / 3] * 3 + [10 / 3])
    # The windows' own means are 1, 3 and 6, of which the deviation is sqrt(19 / 3).
    assert made.quarters[-1].standard_error == pytest.approx(math.sqrt(19 / 3 / 3))
    assert made.whole.loss == pytest.approx(losses.mean())
    assert length_report(losses[:1]).whole.standard_error is None


def test_shorter_windows_read_the_same_tokens():
    assert window_starts(101, [10, 20], windows=2) == {20: [0, 80], 10: [0, 10, 80, 90]}
    with pytest.raises(ValueError, match="it has 20 tokens and lengths go to 20: lower lengths or give a longer text"):
        window_starts(20, [10, 20], windows=2)
