"""Ranks that die by SIGKILL are started again and lose nothing; ranks that were asked to leave are not."""

import os
import signal
import subprocess
import sys
import time

import pytest
from hosts import SCRIPTS
from kill_ranks import TRAIN, end, kill_one, lines, wait_for_step, workers
from ringattn.launch.workers import STOPPED
from tiny_run import tiny_overrides, write_text

from ringattn.training.metrics import read_metrics

SECONDS = 170


def begin(folder, *words):
    folder.mkdir(exist_ok=True)
    write_text(folder / "text.txt")
    settings = [*tiny_overrides(folder), "checkpoint.every=1", "launcher.restarts=2", "launcher.threads=1", *words]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen([*TRAIN, *settings], stderr=log, env=os.environ | {"HF_HUB_OFFLINE": "1"})


@pytest.mark.timeout(2 * SECONDS)
def test_a_killed_rank_is_started_again_and_every_step_is_there_once(tmp_path):
    import random

    command = begin(tmp_path, "trainer.steps=6")
    try:
        kill_one(command, tmp_path, 1, random.Random(0))
        assert command.wait(timeout=SECONDS) == 0, (tmp_path / "log").read_text()[-4000:]
    finally:
        end(command)
    assert [step.step for step in read_metrics(tmp_path / "run")] == list(range(6))
    assert "going on from" in (tmp_path / "log").read_text()


@pytest.mark.timeout(2 * SECONDS)
def test_asked_to_leave_it_saves_says_so_and_is_not_started_again(tmp_path):
    """SIGUSR1, as SLURM sends it, again and again, from before the workers listen; then the rest with resume=auto."""
    command = begin(tmp_path, "trainer.steps=200")
    try:
        command_started = time.monotonic()
        while not workers(command.pid):
            assert command.poll() is None and time.monotonic() < command_started + SECONDS
            time.sleep(0.05)
        time.sleep(0.2)
        command.send_signal(signal.SIGUSR1)
        assert command.wait(timeout=SECONDS) == STOPPED, (tmp_path / "log").read_text()[-4000:]
    finally:
        end(command)
    done = len(lines(tmp_path))
    shown = (tmp_path / "log").read_text()
    assert 0 < done < 200 and f"asked to stop: saved after step {done} of 200" in shown
    assert "going on from" not in shown, "nobody was started again"
    command = begin(tmp_path, f"trainer.steps={done + 2}", "resume=auto")
    try:
        assert command.wait(timeout=SECONDS) == 0
    finally:
        end(command)
    assert [step.step for step in read_metrics(tmp_path / "run")] == list(range(done + 2))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_kills_at_random_steps_change_no_bit(tmp_path):
    """scripts/kill_ranks.py says what it compares; the run that goes on elsewhere has three ranks."""
    words = [sys.executable, str(SCRIPTS / "kill_ranks.py"), "--folder", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("  kill ") == 20
    assert "40 steps, each once; losses and weights the same bits after 20 kills" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_rank_of_deepspeeds_launcher_is_started_again(tmp_path):
    """Its launcher starts nothing again by itself: `ringattn train` does."""
    pytest.importorskip("deepspeed")
    import random
    import socket

    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
    words = ["launcher=deepspeed", "launcher.hosts=localhost:2", f"launcher.port={port}", "trainer.steps=6"]
    command = begin(tmp_path, *words)
    try:
        wait_for_step(command, tmp_path, 1)
        kill_one(command, tmp_path, 1, random.Random(0))
        assert command.wait(timeout=400) == 0, (tmp_path / "log").read_text()[-4000:]
    finally:
        end(command)
    assert [step.step for step in read_metrics(tmp_path / "run")] == list(range(6))
    assert "a worker died: starting all again, 1 of 2" in (tmp_path / "log").read_text()
