"""`ringattn train --multirun`: a job for each point, a table, and what is said where one fails."""

import json
from pathlib import Path

import pytest
from ringattn.launch.cli import main
from ringattn.launch.multirun import points, values
from tiny_run import tiny_overrides, write_text


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ring,tokenring", ["ring", "tokenring"]),
        ("'a,b.txt'", ["'a,b.txt'"]),
        ('"a,b",c', ['"a,b"', "c"]),
        ("[1,2],[3]", ["[1,2]", "[3]"]),
        ("usp:heads=2,ring", ["usp:heads=2", "ring"]),
    ],
)
def test_commas_part_values_and_quotes_keep_theirs(text, found):
    assert values(text) == found


def test_every_point_in_order_with_a_folder_of_its_own():
    words = ["trainer.steps=10", "schedule=ring,tokenring", "optimizer.learning_rate=1e-3,3e-4", "run.folder=/r"]
    found = points([*words, "data.path='a,b.txt'", "launcher.hosts=a,b"], now=0.0)
    assert [point.name for point in found] == [
        "schedule-ring_learning-rate-1e-3",
        "schedule-ring_learning-rate-3e-4",
        "schedule-tokenring_learning-rate-1e-3",
        "schedule-tokenring_learning-rate-3e-4",
    ]
    assert found[0].folder == Path("/r/schedule-ring_learning-rate-1e-3")
    assert found[0].overrides == (
        "trainer.steps=10",
        "data.path='a,b.txt'",
        "launcher.hosts=a,b",
        "schedule=ring",
        "optimizer.learning_rate=1e-3",
        "run.folder='/r/schedule-ring_learning-rate-1e-3'",
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainer.steps=3"], "no setting has several: write for example schedule=ring,tokenring"),
        (["schedule=ring,"], "one of 'schedule=ring,' is empty"),
        (["schedule=ring,tokenring", "launcher=torchrun", "launcher.hosts=a,b"], "write run.folder=..."),
        (["trainer.steps=3,many"], "steps-many: trainer.steps must be a whole number, got 'many'"),
    ],
)
def test_a_mistake_starts_nothing(tmp_path, words, message, capsys):
    write_text(tmp_path / "text.txt")
    others = [word for word in tiny_overrides(tmp_path) if not word.startswith(("trainer.steps", "run.folder"))]
    assert main(["train", "--multirun", *others, *words]) == 2
    assert message in capsys.readouterr().err


def test_a_point_that_fails_does_not_stop_the_others(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write_text(tmp_path / "text.txt")
    # Longer than the whole text: that shows only once it is read.
    words = [*tiny_overrides(tmp_path), "trainer.steps=1", "launcher.processes=1"]
    assert main(["train", "--multirun", *words, "trainer.sequence_length=100000,32"]) == 1
    shown = capfd.readouterr()
    base = tmp_path / "run"
    report = json.loads((base / "sequence-length-32" / "perplexity.json").read_text())
    (failed, done) = shown.out.splitlines()[-2:]
    assert failed.split()[0] == "sequence-length-100000" and "failed (exit code 2)" in failed
    assert done.split()[:2] == ["sequence-length-32", f"{report['loss']:.4f}"]
    assert done.endswith(str(base / "sequence-length-32"))
    assert "--- 2 of 2: sequence-length-32" in shown.err
    assert not (base / "sequence-length-100000").exists()
