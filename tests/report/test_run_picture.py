"""The table, the sentence and the picture of a run."""

import matplotlib.image
import numpy as np
import pytest

from ringattn.evaluation.perplexity import report
from ringattn.report.run_picture import draw_run, smoothed
from ringattn.report.table import position_table, table, verdict
from ringattn.training.metrics import StepMetrics


def made(loss=1.0, bigram=2.0):
    return report(np.full(512, loss), np.full(512, bigram), np.arange(512), sequences=1, length=512)


def test_columns_are_right_aligned():
    lines = ["     part  bytes", "---------  -----", "  weights      8", "gradients     16"]
    assert table(["part", "bytes"], [["weights", "8"], ["gradients", "16"]]) == "\n".join(lines)
    with pytest.raises(ValueError, match="each row needs 2 cells, got 1"):
        table(["a", "b"], [["c"]])


def test_the_position_table_ends_with_the_means():
    lines = position_table(made()).splitlines()
    assert lines[0].split() == ["position", "loss", "perplexity", "bigram", "loss", "bigram", "perplexity"]
    assert lines[2].split() == ["0", "to", "255", "1.000", "2.72", "2.000", "7.39"]
    assert lines[-1].split() == ["all", "1.000", "2.72", "2.000", "7.39"]


def test_the_verdict_says_on_which_side_of_the_bigram_the_model_is():
    assert "1.000 (perplexity 2.72), below the bigram model's 2.000" in verdict(made())
    assert "3.000 (perplexity 20.09), NOT below the bigram model's 2.000" in verdict(made(loss=3.0))


def test_smoothing_starts_at_the_first_value():
    assert smoothed([4.0, 4.0, 4.0]).tolist() == pytest.approx([4.0, 4.0, 4.0])
    assert smoothed([0.0, 1.0], keep=0.5).tolist() == pytest.approx([0.0, 2 / 3])


def test_the_picture_is_written_with_ink_on_it(tmp_path):
    step = {
        "learning_rate": 0.1,
        "gradient_norm": 1.0,
        "tokens_per_second": 1.0,
        "seconds": 1.0,
        "peak_memory": 1,
    }
    metrics = [StepMetrics(step=n, loss=3.0 - n, **step) for n in range(3)]
    draw_run(tmp_path / "run.png", metrics, made(), title="a run", subtitle="of a test")
    pixels = matplotlib.image.imread(tmp_path / "run.png")
    assert pixels.shape[1] == 2000
    assert 0.005 < (pixels[..., :3].min(axis=-1) < 0.9).mean() < 0.3
