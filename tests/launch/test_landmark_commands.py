"""Landmark models through the commands: trained, converted, read with random access, and refused before ranks start."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from ranks import run_ranks
from ringattn.launch.cli import main
from ringattn.launch.compose import compose
from ringattn.launch.evaluate.job import evaluate
from ringattn.launch.evaluate.settings import read
from tiny_folders import TEXT, random_model
from tiny_run import tiny_overrides, write_text

from ringattn.models.convert import convert, identify


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A plain model, the landmark model of it, and a text."""
    place = tmp_path_factory.mktemp("landmark")
    random_model(place / "plain")
    convert(identify(str(place / "plain")), place / "model", to="landmark", landmark_block=7)
    (place / "book.txt").write_text(TEXT)
    return place


def test_convert_makes_a_landmark_model_and_takes_it_back(place, tmp_path, capsys):
    words = [f"source={place / 'plain'}", f"out={tmp_path / 'out'}", "to=landmark", "landmark_block=7"]
    assert main(["convert", *words]) == 0
    capsys.readouterr()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["model_type"], config["landmark_block"]) == ("landmark_llama", 7)
    assert main(["convert", f"source={tmp_path / 'out'}", f"out={tmp_path / 'again'}", "to=landmark"]) == 2
    assert "is a landmark model already, with blocks of 7 tokens" in capsys.readouterr().err
    assert main(["convert", f"source={tmp_path / 'out'}", f"out={tmp_path / 'plain'}", "to=plain"]) == 0
    assert json.loads((tmp_path / "plain" / "config.json").read_text())["model_type"] == "llama"


@pytest.mark.parametrize(
    "words, message",
    [
        (["convert", "source=x", "out=y", "landmark_block=7"], "landmark_block=7 is for making a landmark model"),
        (["convert", "source=x", "out=y", "to=landmark", "landmark_block=0"], "landmark_block must be above 0, got 0"),
        (["train", "model.landmark_block=0", "--dry-run"], "model.landmark_block must be above 0, got 0"),
        (["train", "model.path={model}", "model.landmark_block=9", "--dry-run"], "every 7 tokens, got model.landmark_"),
        (["generate", "model={plain}", "prompt=a", "retrieval.k=2"], "plain has none: make a landmark model of it"),
        (["generate", "model={model}", "prompt=a", "retrieval.window=8"], "write retrieval.window=7."),
        (["eval", "model.path={plain}", "retrieval.k=2"], "plain has none: make a landmark model of it"),
        (["eval", "model.path={model}", "retrieval.keep=file"], "name a folder"),
        (["eval", "model.path={model}", "retrieval.kind=head", "tasks=passkey"], "write retrieval.kind=token_and_head"),
        (
            ["eval", "model.path={model}", "retrieval.k=2", "layout=striped"],
            "by no schedule, got schedule.layout=striped",
        ),
        (["generate", "model={model}", "prompt=a", "schedule=ring"], "by no schedule, got schedule=ring layout=zigzag"),
    ],
)
def test_a_mistake_is_said_before_any_rank_starts(words, message, place, capsys):
    assert main([word.format(plain=place / "plain", model=place / "model") for word in words]) == 2
    assert message in capsys.readouterr().err


def test_the_experiment_is_the_paper_s_recipe(tmp_path):
    random_model(tmp_path / "model")
    config = compose(["experiment=landmark_smollm2", f"model.path={tmp_path / 'model'}"])
    assert config.model.landmark_block == 63
    assert (config.trainer.sequence_length, config.optimizer.weight_decay, config.optimizer.warmup) == (512, 0.1, 0.03)


def evaluated(rank, world, words):
    return evaluate(read(words, world=world), command="ringattn eval")


def test_two_ranks_score_a_long_text_as_one(place, tmp_path):
    words = [
        f"model.path={place / 'model'}", f"data.path={place / 'book.txt'}", "tasks=perplexity,passkey", "lengths=700",
        "windows=1", "depths=2", "samples=1", "threads=1", "retrieval.k=2", "retrieval.window=56",
        "retrieval.keep=file", f"retrieval.folder={tmp_path / 'blocks'}",
    ]  # fmt: skip
    found = [
        run_ranks(world, evaluated, world, [*words, f"out={tmp_path / str(world)}"], threads=True)[0]
        for world in (1, 2)
    ]
    one, two = (evaluation.perplexity[0] for evaluation in found)
    assert two.whole.loss == pytest.approx(one.whole.loss, rel=1e-5)
    assert [score.loss for score in found[1].scores] == pytest.approx(
        [score.loss for score in found[0].scores], rel=1e-5
    )
    # Of the 512 positions that the model has, 11 blocks are taken: no warning.
    assert not any("positions" in note for note in found[0].setup.notes)
    assert not list((tmp_path / "blocks").iterdir())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_of_two_ranks_trains_saves_and_its_model_generates(tmp_path):
    write_text(tmp_path / "text.txt")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    words = [*tiny_overrides(tmp_path), "model.landmark_block=7", "trainer.sequence_length=64"]

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "ringattn", *arguments], capture_output=True, timeout=280, env=environment
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done

    run("train", *words, "launcher.device=cpu")
    folder = tmp_path / "run"
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["landmark_block"] == 7
    model = folder / "checkpoints" / "latest"
    assert json.loads((model / "config.json").read_text())["model_type"] == "landmark_llama"
    words = [f"model.path={model}", f"prompt_file={tmp_path / 'text.txt'}", "max_new_tokens=4", "device=cpu"]
    done = run("generate", *words, "retrieval.k=2", "retrieval.window=28", "retrieval.keep=cpu")
    assert b"4 made" in done.stderr
