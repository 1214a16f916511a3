"""A run that is interrupted goes on as if it had not been: real processes, on a tiny model."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from safetensors.torch import load_file
from tiny_run import tiny_overrides, write_text
from transformers import AutoModelForCausalLM

from ringattn.training.metrics import read_metrics

TRAIN = [sys.executable, "-m", "ringattn", "train"]
ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
STEPS = 60


def run(folder, *words):
    """(exit code, standard error) of a run to its end."""
    words = [*tiny_overrides(folder), f"trainer.steps={STEPS}", *words]
    done = subprocess.run([*TRAIN, *words], capture_output=True, text=True, timeout=110, env=ENVIRONMENT)
    return done.returncode, done.stderr


def records(folder):
    return [(step.step, step.loss) for step in read_metrics(folder / "run")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed run on two ranks."""
    folder = tmp_path_factory.mktemp("whole")
    write_text(folder / "text.txt")
    code, shown = run(folder, "checkpoint.every=25", "checkpoint.keep=3")
    assert code == 0, shown[-3000:]
    return folder


def test_so_many_checkpoints_are_kept_as_asked(whole):
    kept = sorted(path.name for path in (whole / "run" / "checkpoints").iterdir())
    assert kept == ["latest", "step-000025", "step-000050", "step-000060"]


@pytest.mark.timeout(240)
def test_a_run_that_was_asked_to_stop_goes_on_to_the_same_bits(whole, tmp_path):
    write_text(tmp_path / "text.txt")
    words = [*tiny_overrides(tmp_path), f"trainer.steps={STEPS}"]
    with subprocess.Popen(
        [*TRAIN, *words], stderr=subprocess.PIPE, text=True, start_new_session=True, env=ENVIRONMENT
    ) as command:
        end = time.monotonic() + 100
        metrics = tmp_path / "run" / "metrics.jsonl"
        while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
            assert command.poll() is None and time.monotonic() < end
            time.sleep(0.02)
        command.send_signal(signal.SIGTERM)
        _, shown = command.communicate(timeout=100)
    done = len(records(tmp_path))
    assert done < STEPS, "stopped before the end"
    assert f"asked to stop: saved after step {done} of {STEPS}; resume=auto goes on" in shown
    code, shown = run(tmp_path, "resume=auto")
    assert code == 0, shown[-3000:]
    assert f"going on from {tmp_path / 'run' / 'checkpoints' / f'step-{done:06d}'}, after {done} of {STEPS}" in shown
    assert records(tmp_path) == records(whole), "every step once, with the same loss to the bit"
    before, after = (load_file(f / "run/checkpoints/latest/model.safetensors") for f in (whole, tmp_path))
    assert all(after[name].equal(tensor) for name, tensor in before.items())


@pytest.mark.timeout(240)
def test_a_finished_run_goes_on_for_more_steps_on_another_number_of_ranks(tmp_path):
    """From step 4 to 6, on one rank, with another schedule and layout."""
    write_text(tmp_path / "text.txt")
    code, shown = run(tmp_path, "trainer.steps=4")
    assert code == 0, shown[-3000:]
    words = ["resume=auto", "trainer.steps=6", "launcher.processes=1", "schedule=ulysses", "schedule.layout=contiguous"]
    code, shown = run(tmp_path, *words)
    assert code == 0, shown[-3000:]
    assert [step for step, _ in records(tmp_path)] == list(range(6))
    assert (tmp_path / "run" / "config-1.yaml").is_file()
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["schedule"]["name"] == "ulysses"


def test_another_seed_or_model_is_refused_before_any_worker_starts(whole):
    for word, said in (
        ("trainer.seed=3", "trainer.seed was 0 and is 3"),
        ("data.held_out=0.2", "data.held_out was 0.1 and is 0.2"),
        ("model.architecture.layers=3", "model.architecture was"),
    ):
        code, shown = run(whole, "resume=auto", word)
        assert code == 2 and shown.count("\n") == 1, shown
        assert f"a run goes on as it began, but {said}" in shown


def test_another_optimizer_is_refused_by_the_checkpoint(whole):
    code, shown = run(whole, "resume=auto", "trainer.steps=70", "optimizer.learning_rate=0.5")
    assert code != 0
    assert "a run goes on as it began, but optimizer.learning_rate was 0.015 and is 0.5" in shown


def test_a_damaged_checkpoint_is_named_with_what_to_do(whole):
    place = whole / "run" / "checkpoints" / "step-000060" / "training" / "state-00001-of-00002.safetensors"
    content = place.read_bytes()
    place.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        code, shown = run(whole, "resume=auto", "trainer.steps=70")
    finally:
        place.write_bytes(content)
    assert code != 0
    assert "step-000060 is damaged: rank" in shown
    assert "state-00001-of-00002.safetensors is not what was written (another SHA-256)" in shown
    assert "remove the folder to go on from step-000050" in shown


@pytest.mark.timeout(240)
def test_adapters_are_trained_saved_and_gone_on_with(whole, tmp_path):
    pytest.importorskip("peft")
    base = whole / "run" / "checkpoints" / "latest"
    write_text(tmp_path / "text.txt")
    words = [word for word in tiny_overrides(tmp_path) if not word.startswith("model.")]
    words += [f"model.path={base}", "adapter=lora", "adapter.rank=2", "adapter.train_norms=true", "trainer.mlp_chunk=5"]
    words += ["trainer.gradient_checkpointing=true", "checkpoint.dtype=bfloat16", "processes=1"]
    for steps in (2, 3):
        more = [f"trainer.steps={steps}", "resume=auto"]
        done = subprocess.run([*TRAIN, *words, *more], capture_output=True, text=True, timeout=110, env=ENVIRONMENT)
        assert done.returncode == 0, done.stderr[-3000:]
    assert [step for step, _ in records(tmp_path)] == [0, 1, 2]
    saved = tmp_path / "run" / "checkpoints" / "latest"
    assert json.loads((saved / "adapter" / "adapter_config.json").read_text())["r"] == 2
    merged = AutoModelForCausalLM.from_pretrained(saved, local_files_only=True)
    assert str(merged.dtype) == "torch.bfloat16"
    from peft import PeftModel

    plain = AutoModelForCausalLM.from_pretrained(base, local_files_only=True)
    again = PeftModel.from_pretrained(plain, saved / "adapter").merge_and_unload()
    for name, tensor in merged.state_dict().items():
        assert tensor.equal(again.state_dict()[name].bfloat16()), name
