"""`ringattn train` as a whole: real processes over gloo, on a tiny model and a made-up text."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.image
import pytest
import torch
import yaml
from tiny_run import tiny_overrides, write_text
from transformers import AutoModelForCausalLM, AutoTokenizer

from ringattn.data.token_data import open_data
from ringattn.training.metrics import read_metrics

TRAIN = [sys.executable, "-m", "ringattn", "train"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
SECONDS = 110


def run(command, *words, **environment):
    """Run to the end with nothing to download from; (exit code, standard output, standard error)."""
    done = subprocess.run(
        [*command, *words],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | environment,
    )
    return done.returncode, done.stdout, done.stderr


def losses(folder):
    return [step.loss for step in read_metrics(folder / "run")]


def train(folder, *words):
    write_text(folder / "text.txt")
    code, _, shown = run(TRAIN, *tiny_overrides(folder), *words)
    assert code == 0, shown[-4000:]
    return shown


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """One run on two ranks: its folder and what it showed."""
    folder = tmp_path_factory.mktemp("two")
    return folder, train(folder, "launcher.processes=2", "trainer.accumulation=2", "checkpoint.every=2")


def test_it_records_every_step(two_ranks):
    folder, shown = two_ranks
    steps = read_metrics(folder / "run")
    assert [s.step for s in steps] == [0, 1, 2]
    assert all(s.tokens_per_second > 0 and s.peak_memory > 2**20 and s.gradient_norm > 0 for s in steps)
    assert steps[-1].loss < steps[0].loss
    for number in (1, 2, 3):
        assert shown.count(f"step {number}/3  loss ") == 1, "one plain line a step, from rank 0 alone"


def test_it_ends_with_a_table_a_verdict_and_a_picture(two_ranks):
    folder, shown = two_ranks
    assert "bigram perplexity" in shown and "the bigram model's" in shown
    report = json.loads((folder / "run" / "perplexity.json").read_text())
    assert report["length"] == 32 and report["sequences"] == 2
    assert report["ranges"][0]["loss"] == pytest.approx(report["loss"])
    assert matplotlib.image.imread(folder / "run" / "run.png").shape[1] == 2000


def test_the_checkpoint_loads_with_plain_transformers(two_ranks):
    folder, _ = two_ranks
    latest = folder / "run" / "checkpoints" / "latest"
    assert latest.resolve().name == "step-000003"
    assert (latest / "model.safetensors").is_file()
    model = AutoModelForCausalLM.from_pretrained(latest, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(latest, local_files_only=True)
    text = "and the people shall be with him"
    ids = tokenizer(text, return_tensors="pt").input_ids
    assert tokenizer.decode(ids[0]) == text
    assert ids.max() < model.config.vocab_size == 290
    assert torch.isfinite(model(input_ids=ids).logits).all()


def test_the_saved_model_has_the_held_out_loss_that_was_reported(two_ranks):
    """A plain model on one process and the parallel one agree on the held-out windows."""
    folder, _ = two_ranks
    report = json.loads((folder / "run" / "perplexity.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(folder / "run" / "checkpoints" / "latest")
    plain = []
    for sequence in open_data(folder / "run" / "data", seed=0, length=32).held_out(2):
        logits = model(input_ids=torch.from_numpy(sequence.inputs)).logits[0]
        plain.append(torch.nn.functional.cross_entropy(logits, torch.from_numpy(sequence.targets[0])).item())
    assert sum(plain) / 2 == pytest.approx(report["loss"], rel=1e-5)


@pytest.mark.slow  # tests/training/test_uneven.py and test_engines.py hold this of the loop, without the command.
def test_one_rank_has_the_same_losses(two_ranks, tmp_path):
    train(tmp_path, "launcher.processes=1", "trainer.accumulation=2")
    assert losses(tmp_path) == pytest.approx(losses(two_ranks[0]), rel=1e-5)


@pytest.mark.slow
def test_two_data_parallel_rows_have_the_same_losses(two_ranks, tmp_path):
    """Two rows of one rank with one sequence each read what one row with two sequences reads."""
    train(tmp_path, "launcher.processes=2", "mesh.sequence_parallel=1", "trainer.accumulation=1")
    assert losses(tmp_path) == pytest.approx(losses(two_ranks[0]), rel=1e-5)
    wanted, found = (json.loads((f / "run" / "perplexity.json").read_text())["loss"] for f in (two_ranks[0], tmp_path))
    assert found == pytest.approx(wanted, rel=1e-5)


def test_plain_torchrun_is_the_same_job(two_ranks, tmp_path):
    write_text(tmp_path / "text.txt")
    words = [*tiny_overrides(tmp_path), "trainer.accumulation=2", "trainer.wandb=offline"]
    code, _, shown = run([*TORCHRUN, "ringattn", "train"], *words)
    assert code == 0, shown[-4000:]
    assert losses(tmp_path) == pytest.approx(losses(two_ranks[0]), rel=1e-5)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["launcher"]["processes"] == 2
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))


def test_under_torchrun_a_mistake_is_said_once_and_nobody_waits():
    started = time.monotonic()
    code, _, shown = run([*TORCHRUN, "ringattn", "train"], "trainer.step=1")
    assert code != 0
    assert shown.count("there is no setting trainer.step. Did you mean 'trainer.steps'?") == 1
    assert time.monotonic() - started < 60


def test_a_checkpoint_is_trained_on_with_its_own_tokenizer(two_ranks, tmp_path):
    """In bf16, with checkpointing, and on sequences longer than the model's positions, which is warned about."""
    latest = two_ranks[0] / "run" / "checkpoints" / "latest"
    write_text(tmp_path / "text.txt")
    words = [word for word in tiny_overrides(tmp_path) if not word.startswith("model.")]
    words += [f"model.path={latest}", "trainer.sequence_length=96", "trainer.steps=1", "launcher.processes=1"]
    code, _, shown = run(TRAIN, *words, "trainer.precision=bfloat16", "trainer.gradient_checkpointing=true")
    assert code == 0, shown[-4000:]
    assert "model.rope_scaling=yarn:96" in shown
    assert losses(tmp_path)[0] < losses(two_ranks[0])[0], "it starts from trained weights"
    saved = tmp_path / "run" / "checkpoints" / "latest"
    assert (saved / "tokenizer.json").read_text() == (latest / "tokenizer.json").read_text()


def test_another_configuration_than_was_frozen_is_refused_on_every_rank(two_ranks):
    code, _, shown = run([*TORCHRUN, "ringattn.launch.worker"], str(two_ranks[0] / "run"), "0" * 64)
    assert code != 0
    for rank in (0, 1):
        assert f"rank {rank}: all ranks must read the same config.yaml, but ranks [0, 1] read another" in shown


def test_bad_text_is_refused_before_any_worker_starts(tmp_path):
    code, _, shown = run(TRAIN, *tiny_overrides(tmp_path))
    assert code == 2
    assert shown.count("\n") == 1 and "text.txt, which is not there" in shown


def workers_of(folder):
    """Processes whose command line names the run folder."""
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = line.read_bytes().decode().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(folder / "run") in words:
            found.append(int(line.parent.name))
    return found


def test_ctrl_c_ends_every_process(tmp_path):
    write_text(tmp_path / "text.txt")
    words = [*tiny_overrides(tmp_path), "trainer.steps=100000"]
    with subprocess.Popen([*TRAIN, *words], stderr=subprocess.DEVNULL, start_new_session=True) as command:
        try:
            end = time.monotonic() + 60
            metrics = tmp_path / "run" / "metrics.jsonl"
            while not (metrics.exists() and metrics.stat().st_size):
                assert command.poll() is None and time.monotonic() < end
                time.sleep(0.1)
            assert len(workers_of(tmp_path)) == 3, "the agent and two workers"
            command.send_signal(signal.SIGINT)
            assert command.wait(timeout=60) == 128 + signal.SIGINT
            assert workers_of(tmp_path) == []
        finally:
            for pid in workers_of(tmp_path):
                os.kill(pid, signal.SIGKILL)
            command.kill()
