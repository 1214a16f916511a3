"""scripts/study: its points, its tasks, what its report says of made-up figures, and two small real points."""

import dataclasses
import json

import hosts  # noqa: F401 (puts scripts/ on the path)
import numpy as np
import pytest
from study import command, tasks
from study.effort import QUICK, Effort, Point, in_order, points_of
from study.figures import Figure, Found
from study.picture import draw_study
from study.record import Run, read_run
from study.tables import as_json, by_ratio, recall, sentences, told

TINY = dataclasses.replace(
    QUICK, layers=2, hidden=16, length=16, lengths=(16, 32), pairs=(2, 4), batch=4, steps=3, samples=3, text_steps=2
)


def found(mixer, ratio, scores, *, loss=2.0, kinds=("linear", "full")):
    """With `scores` of 2 and 4 pairs, at both lengths, and as many needles as of 2."""
    figures = [
        Figure(task=task, place=place, length=length, samples=3, score=score, standard_error=0.1, loss=1.0)
        for length in (16, 32)
        for task, place, score in (("recall", 2, scores[0]), ("recall", 4, scores[1]), ("needle", 0.5, scores[0]))
    ]
    return Found(
        point=Point(mixer, ratio),
        kinds=kinds,
        parameters=1000,
        figures=tuple(figures),
        text_loss=loss,
        text_error=0.01,
        seconds=12.0,
    )


MADE_UP = (
    found(None, "full", (1.0, 0.9), loss=1.9, kinds=("full", "full")),
    found("gla", "pure", (0.3, 0.1), loss=2.1, kinds=("linear", "linear")),
    found("gla", "1:1", (0.7, 0.5)),
    found("hgrn2", "pure", (0.5, 0.3), loss=2.0, kinds=("linear", "linear")),
    found("hgrn2", "1:1", (0.9, 0.9)),
)


def run_of(folder, points=None):
    points = [one.point for one in MADE_UP] if points is None else points
    return Run(folder=folder, effort=TINY, points=tuple(points), date="2026-01-02", hardware="made up")


def test_full_attention_is_one_point_for_all_mixers():
    points = points_of(["gla", "hgrn2", "gla"], ["pure", "3:1", "full"], 8)
    assert [point.name for point in points] == ["full", "gla-pure", "gla-3-1", "hgrn2-pure", "hgrn2-3-1"]


def test_ratios_go_from_no_full_layer_to_all():
    assert in_order(["full", "3:1", "pure", "12:1", "1:1"]) == ["pure", "12:1", "3:1", "1:1", "full"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--mixers", "gated_delta"], "unknown mixer 'gated_delta' (did you mean 'gated_deltanet'?)"),
        (["--ratios", "24:1"], "the pattern 24:1 does not fit 8 layers"),
        (["--ratios", "pure,7:1,6:1"], "the ratios 7:1 and 6:1 give the same 8 layers: drop one"),
        (["--mixers", ""], "there is nothing to train: give --mixers and --ratios"),
        (["--ratios", " , "], "there is nothing to train"),
        (["--lengths", "8"], "recall of 16 pairs takes 64 tokens, four a pair, but a context has 8"),
        (["--pairs", "40", "--length", "256", "--lengths", "256"], "--vocabulary 64 has room for 31 pairs, got 40"),
        (["--steps", "0"], "--steps is at least 1, got 0"),
        (["--pairs", ""], "--pairs is at least 1, got none"),
        (["--hidden", "30", "--heads", "4"], "--hidden 30 must be --heads 4 times an even number"),
        (["--optimizer", "sgd"], "--optimizer is adamw or muon, got 'sgd'"),
        (["--jobs", "0"], "at least 1, got 0"),
        (["--text", "nowhere.txt"], "nowhere.txt, which is not there"),
        (["--report"], "holds no study"),
    ],
)
def test_mistakes_are_one_sentence_before_anything_is_trained(tmp_path, capsys, words, said):
    asked = words if "--mixers" in words else ["--mixers", "gla", *words]
    assert command.main([*asked, "--out", str(tmp_path / "out")]) == 2
    told_of = capsys.readouterr().err
    assert told_of.startswith("study: ") and said in told_of
    assert not (tmp_path / "out").exists()


def test_a_text_too_short_to_hold_out_a_part(tmp_path, capsys):
    (tmp_path / "short.txt").write_text("a few words")
    assert command.main(["--text", str(tmp_path / "short.txt"), "--out", str(tmp_path / "out")]) == 2
    assert "must be longer than --text-length 128" in capsys.readouterr().err


def test_a_needle_is_a_key_asked_again_at_the_end():
    sample = tasks.needle(TINY, 16, 0.5, 0, 7)
    key, value = sample.tokens[-2:]
    assert sample.answers == ((15, 16),)
    assert list(np.flatnonzero(sample.tokens == key)) == [6, 14]
    assert sample.tokens[7] == value
    assert key < TINY.vocabulary // 2 <= value


def test_rows_are_of_every_number_of_pairs_and_needles_in_turn():
    cases = tasks.recall(TINY, [16], 0)
    tokens, labels = tasks.training_batch(TINY, cases, 0)
    assert tokens.shape == (4, 16)
    assert (labels != -100).sum(1).tolist() == [2, 4, 1, 2]
    assert ((labels == tokens) | (labels == -100)).all()


def test_samples_of_tests_are_not_those_of_training():
    training, test = (tasks.recall(TINY, [16], seed)[0].make(0).tokens for seed in (0, tasks.HELD_OUT))
    assert not np.array_equal(training, test)


def test_a_text_is_held_out_from_its_end(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("a" * 1900 + "b" * 100)
    text = tasks.Text.read(dataclasses.replace(TINY, text=str(path), text_length=50))
    assert set(text.train) == {ord("a")} and set(text.held_out) == {ord("b")}
    assert text.tests(dataclasses.replace(TINY, text_length=50)).shape == (3, 50)


def test_means_over_pairs_lengths_and_mixers():
    assert recall(MADE_UP[1]) == pytest.approx(0.2)
    assert by_ratio(MADE_UP, recall) == pytest.approx({"pure": 0.3, "1:1": 0.75, "full": 0.95})


def test_what_the_report_says():
    assert sentences(run_of(None), MADE_UP) == [
        "recall over all lengths and pairs, mean of mixers: pure 30 %, 1:1 75 %, full 95 %",
        "it rises most from pure to 1:1, by 45 points",
        "pure, from best recall: hgrn2 40 %, gla 20 %",
        "1:1, from best recall: hgrn2 90 %, gla 60 %",
        "language loss, mean of mixers: pure 2.050, 1:1 2.000, full 1.900, "
        "which is 0.150 nats a byte from best to worst",
    ]


def test_a_report_says_where_recall_falls():
    fell = (found("gla", "pure", (0.5, 0.5)), found("gla", "1:1", (0.2, 0.2)))
    assert "it falls from pure to 1:1, by 30 points" in sentences(run_of(None), fell)


def test_the_report_of_a_folder(tmp_path, capsys):
    run = run_of(tmp_path, [*(one.point for one in MADE_UP), Point("gla", "pure"), Point("kda", "pure")])
    (tmp_path / "points").mkdir()
    run.write()
    for one in MADE_UP:
        run.file(one.point).write_text(json.dumps(one.plain()))
    assert read_run(tmp_path) == run
    assert read_run(tmp_path).found()[0] == MADE_UP[0]
    assert command.main(["--report", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "not trained yet: " in shown
    rows = [" ".join(line.split()) for line in shown.splitlines()]
    assert "hgrn2 pure 0 of 2 1,000 50 % 30 % 40 % 50 % 2.000 12" in rows
    assert "gla 1:1 60 % 60 % 70 % 70 %" in rows, "by length"
    assert json.loads((tmp_path / "results.json").read_text())["recall_by_ratio"]["full"] == pytest.approx(0.95)
    assert (tmp_path / "report.md").read_text() in shown


def test_the_picture_has_a_line_for_each_mixer(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn = {}
    plot = Axes.plot

    def noted(self, x, y, *args, **words):
        drawn.setdefault(words["label"], []).append((list(x), list(y)))
        return plot(self, x, y, *args, **words)

    monkeypatch.setattr(Axes, "plot", noted)
    draw_study(run_of(tmp_path), MADE_UP, tmp_path / "study.png")
    assert drawn.keys() == {"gla", "hgrn2"}
    assert [one[0] for one in drawn["gla"]] == [[0, 1, 2]] * 4
    assert drawn["gla"][0][1] == pytest.approx([0.2, 0.6, 0.95])
    assert drawn["hgrn2"][3][1] == pytest.approx([2.0, 2.0, 1.9])
    assert (tmp_path / "study.png").read_bytes()[:4] == b"\x89PNG"


def test_without_a_text_there_is_no_loss(tmp_path):
    alone = [dataclasses.replace(one, text_loss=None, text_error=None) for one in MADE_UP]
    run = dataclasses.replace(run_of(tmp_path), effort=dataclasses.replace(TINY, text="none"))
    assert "bytes of text" not in told(run, alone)
    assert json.loads(as_json(run, alone))["text_loss_by_ratio"]["pure"] is None
    assert Effort.of(run.effort.plain()) == run.effort


@pytest.mark.timeout(600)
def test_points_are_trained_once(tmp_path, capsys):
    path = tmp_path / "text.txt"
    path.write_text("In the beginning. " * 200)
    sizes = [f"--{name.replace('_', '-')}={_word(value)}" for name, value in TINY.plain().items() if name != "text"]
    words = ["--mixers", "hgrn2", *sizes, "--text", str(path), "--out", str(tmp_path / "out")]
    assert command.main([*words, "--ratios", "1:1"]) == 0
    first = tmp_path / "out" / "points" / "hgrn2-1-1.json"
    before = first.stat().st_mtime_ns

    assert command.main([*words, "--ratios", "1:1,full"]) == 0

    assert first.stat().st_mtime_ns == before, "trained again"
    out, err = capsys.readouterr()
    assert "1 of 2 points are in" in err
    run = read_run(tmp_path / "out")
    one, whole = run.found()
    assert (one.kinds, whole.kinds) == (("linear", "full"), ("full", "full"))
    assert len(one.figures) == 2 * 2 + 2 * 3
    assert all(0 <= figure.score <= 1 and figure.samples == 3 for figure in one.figures)
    assert one.text_loss == pytest.approx(5.5, abs=1.0), "near ln 256"
    assert "hgrn2" in out and (tmp_path / "out" / "study.png").exists()

    assert command.main([*words, "--ratios", "1:1", "--steps", "4"]) == 2
    assert "holds a study of another size: this one has --steps 4, not 3" in capsys.readouterr().err


def test_a_point_that_fails_says_why(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "torch.py").write_text("raise RuntimeError('no torch today')")
    words = ["--quick", "--text", "none", "--mixers", "gla", "--ratios", "pure", "--out", str(tmp_path / "out")]
    assert command.main(words) == 2
    said = capsys.readouterr().err
    assert "gla pure could not be trained (exit code 1)" in said and "no torch today" in said


def _word(value):
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
