"""A model converted, fitted and trained with its teacher: real commands on a tiny model."""

import os
import subprocess
import sys

import pytest
import torch
from ringattn.launch.cli import main
from ringattn.launch.compose import compose
from safetensors.torch import load_file
from tiny_folders import TEXT, random_model
from transformers import AutoModelForCausalLM

from ringattn.training.metrics import read_metrics


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A LLaMA, the hybrid made of it, and a text."""
    folder = tmp_path_factory.mktemp("models")
    random_model(folder / "llama")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    words = [f"source={folder / 'llama'}", "to=hybrid", "pattern=1:1", "mixer=gla", f"out={folder / 'hybrid'}"]
    assert main(["convert", *words]) == 0
    return folder


def words_of(models, run, *more):
    return [
        f"model.path={models / 'hybrid'}",
        f"distill.teacher={models / 'llama'}",
        f"data.path={models / 'text.txt'}",
        f"run.folder={run}",
        "trainer.sequence_length=48",
        "trainer.evaluate_sequences=1",
        *more,
    ]


def train(models, run, *more):
    words = words_of(models, run, "distill=mixers", "optimizer.learning_rate=1e-2", "optimizer.clip=1000", *more)
    done = subprocess.run(
        [sys.executable, "-m", "ringattn", "train", "resume=auto", "optimizer.warmup=0", *words],
        capture_output=True,
        text=True,
        timeout=110,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [step.loss for step in read_metrics(run)]


def test_the_mixers_come_nearer_and_nothing_else_moves(models, tmp_path):
    losses = train(models, tmp_path / "run", "trainer.steps=6", "launcher.processes=1")
    assert losses[-1] < losses[0] < 1.5
    latest = tmp_path / "run" / "checkpoints" / "latest"
    own, before = load_file(latest / "model.safetensors"), load_file(models / "hybrid" / "model.safetensors")
    moved = {name for name in before if not torch.equal(own[name], before[name])}
    assert moved and all(".mixer." in name for name in moved)
    assert AutoModelForCausalLM.from_pretrained(latest).config.layer_types[0] == "linear_attention"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_run_goes_on_and_on_two_ranks_is_the_same(models, tmp_path):
    one = train(models, tmp_path / "one", "trainer.steps=4", "launcher.processes=1")
    two = train(models, tmp_path / "two", "trainer.steps=4", "checkpoint.every=2", "launcher.processes=2")
    assert two == pytest.approx(one, rel=1e-4)
    assert len(train(models, tmp_path / "two", "trainer.steps=6", "launcher.processes=2")) == 6
    latest = tmp_path / "two" / "checkpoints" / "latest"
    assert main(["generate", f"model={latest}", "prompt=The grass", "max_new_tokens=3", "processes=1"]) == 0


def test_a_teacher_s_guesses_are_composed(models, tmp_path):
    config = compose(words_of(models, tmp_path / "run", "distill.weight=0.9", "distill.temperature=2"))
    assert config.distill.match == "logits" and config.distill.weight == 0.9
    assert compose([]).distill.teacher is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["distill=mixers"], "the setting distill.teacher is required and has no value"),
        (["distill.teacher=/none"], "distill.teacher=/none can't be read: "),
        (["distill.weight=2"], "distill.weight is the teacher's share"),
        (["distill=mixer"], "distill must be one of logits, mixers, none, got 'mixer'"),
    ],
)
def test_a_mistake_in_the_settings(words, message):
    with pytest.raises(ValueError) as caught:
        compose(words)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pattern=3:1"], "pattern is of a hybrid, got pattern=3:1 without to=hybrid: write both"),
        (["to=hybrid", "mixer=gated_delta"], "got 'gated_delta' (did you mean 'gated_deltanet'?)"),
        (["to=hybrid", "pattern=9:1"], "the pattern 9:1 does not fit 2 layers"),
        (["to=hybrid", "sliding_window=512"], "sliding_window=512 and pattern=3:1, which has none"),
        (["to=mamba"], "to must be one of landmark, plain, hybrid, got 'mamba'"),
    ],
)
def test_a_mistake_in_a_conversion(models, tmp_path, words, message, capsys):
    assert main(["convert", f"source={models / 'llama'}", f"out={tmp_path / 'out'}", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert not (tmp_path / "out").exists()
