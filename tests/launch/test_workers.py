"""Starting and ending workers: exit codes, signals, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ringattn.launch.workers import environment, start

# Stands in for torch's agent: a parent with a child in a session of its own, both named by files.
AGENT = """
import os, signal, subprocess, sys, time
from pathlib import Path
folder, stubborn = Path(sys.argv[1]), sys.argv[2] == "stubborn"
if stubborn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
def stop(*_):
    child.kill(); child.wait(); sys.exit(1)
if not stubborn:
    signal.signal(signal.SIGTERM, stop)
(folder / "pids.new").write_text(f"{os.getpid()} {child.pid}")
(folder / "pids.new").rename(folder / "pids")
time.sleep(60)
"""

STARTER = """
import sys
from ringattn.launch import workers
workers.GRACE_SECONDS = 2.0
sys.exit(workers.start(sys.argv[1:], threads=1, processes=1))
"""


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


@pytest.mark.parametrize("code", [0, 3])
def test_the_exit_code_is_the_agents(code):
    assert start([sys.executable, "-c", f"raise SystemExit({code})"], threads=1, processes=1) == code


def test_workers_share_the_cores():
    assert environment(threads=None, processes=10_000)["OMP_NUM_THREADS"] == "1"
    assert environment(threads=3, processes=2)["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize("kind", ["obedient", "stubborn"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything(tmp_path, kind, number):
    starter = subprocess.Popen([sys.executable, "-c", STARTER, sys.executable, "-c", AGENT, str(tmp_path), kind])
    try:
        wait_for((tmp_path / "pids").exists)
        pids = [int(word) for word in (tmp_path / "pids").read_text().split()]
        starter.send_signal(number)
        assert starter.wait(timeout=20) == 128 + number
        wait_for(lambda: not any(map(alive, pids)))
    finally:
        starter.kill()
        starter.wait()
