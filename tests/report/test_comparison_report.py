"""The folder of a comparison: all forms of it, and the picture among them."""

from dataclasses import replace

import matplotlib.image
import pytest
from made_comparison import made_comparison, made_setup

from ringattn.report.comparison import Comparison, Result
from ringattn.report.comparison_picture import draw_comparison
from ringattn.report.comparison_report import write_report
from ringattn.report.comparison_table import comparison_table


def ink(path):
    """The width, and the share of pixels that are not nearly white."""
    pixels = matplotlib.image.imread(path)
    return pixels.shape[1], (pixels[..., :3].min(axis=-1) < 0.9).mean()


def test_all_forms_are_written(tmp_path):
    made = made_comparison()
    paths = write_report(made, tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["report.jsonl", "report.txt", "report.html", "trace.json", "report.png"]
    assert all(path.stat().st_size > 500 for path in paths)
    assert paths[1].read_text(encoding="utf-8") == comparison_table(made) + "\n"


def test_without_a_run_there_is_no_picture(tmp_path):
    nothing = Comparison(setup=made_setup(), results=(Result(schedule="a", skipped="why"),))
    (tmp_path / "report.png").write_bytes(b"of an earlier run")
    assert [path.suffix for path in write_report(nothing, tmp_path)] == [".jsonl", ".txt", ".html", ".json"]
    assert not (tmp_path / "report.png").exists()
    with pytest.raises(ValueError, match="no schedule was run"):
        draw_comparison(nothing, tmp_path / "report.png")


def test_the_picture_has_ink_on_it(tmp_path):
    draw_comparison(made_comparison(ranks=12), tmp_path / "whole.png")
    width, dark = ink(tmp_path / "whole.png")
    assert width == 1600 and 0.05 < dark < 0.5


def test_a_picture_of_little(tmp_path):
    ring = made_comparison().results[0]
    bare = replace(ring.backward, timeline=(), predicted_timeline=(), predicted=None, wire_bound=None, links=())
    only = Comparison(setup=made_setup(), results=(replace(ring, forward=None, backward=bare),))
    draw_comparison(only, tmp_path / "little.png")
    assert ink(tmp_path / "little.png")[0] == 1600
