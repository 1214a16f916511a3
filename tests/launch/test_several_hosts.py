"""Runs on several hosts for real: torchrun and DeepSpeed's launcher across network namespaces, SLURM on daemons.

The slow tests run with

    python -m pytest tests/launch/test_several_hosts.py -m slow

as root, with iproute2 and, for SLURM, Debian's slurm-wlm (`apt-get install -y slurm-wlm`); each skips where what it
needs is not there, and says what.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hosts import SCRIPTS, Testbed, Topology, needs_hosts
from kill_ranks import TRAIN, kill_one, lines, wait_for_step, workers
from ringattn.launch.workers import STOPPED
from slurm_bed import SlurmBed, obstacle, processes_of, wait_for
from tiny_run import tiny_overrides, write_text

from ringattn.training.metrics import read_metrics

SECONDS = 300
_REASON = obstacle()
needs_slurm = pytest.mark.skipif(_REASON is not None, reason=f"no SLURM here: {_REASON}")
HOSTS = "launcher.hosts=10.77.0.101,10.77.0.102"


def words(folder, *more):
    write_text(folder / "text.txt")
    return [*tiny_overrides(folder), "launcher.processes=1", "launcher.threads=1", "checkpoint.every=1", *more]


@pytest.fixture
def bed():
    with Testbed(Topology.mesh(2, rate=25e6)) as made:
        yield made


def begin_on_both(bed, folder, *more):
    """The same command on both hosts; what each prints goes to a file."""
    command = [*TRAIN, *words(folder, HOSTS, *more)]
    # Nothing is set beside what a person has: the test bed's own words for gloo are taken away.
    clean = ["env", "-u", "GLOO_SOCKET_IFNAME", "HF_HUB_OFFLINE=1"]
    started = []
    for host in (1, 0):
        with (folder / f"host{host}.log").open("wb") as output:
            started.insert(0, bed.start(host, [*clean, *command], output=output))
    return started


def said(folder):
    return "".join(path.read_text() for path in sorted(folder.glob("*.log")))


def steps(folder):
    return [step.step for step in read_metrics(folder / "run")]


@needs_hosts
@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.parametrize("kind", ["torchrun", "deepspeed"])
def test_two_hosts_train_as_two_ranks_of_one_do(bed, tmp_path, kind):
    if kind == "deepspeed":
        pytest.importorskip("deepspeed")
    alone, together = tmp_path / "alone", tmp_path / "together"
    for folder in (alone, together):
        folder.mkdir()
    running = begin_on_both(bed, together, f"launcher={kind}")
    assert [process.wait(timeout=SECONDS) for process in running] == [0, 0], said(together)
    assert f"run folder {together / 'run'}, node 1 of 2" in (together / "host1.log").read_text()
    code = subprocess.run([*TRAIN, *words(alone, "launcher.processes=2")], timeout=SECONDS).returncode
    assert code == 0
    wanted, found = ([step.loss for step in read_metrics(folder / "run")] for folder in (alone, together))
    assert found == wanted


@needs_hosts
@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.parametrize("host", [0, 1])
def test_a_rank_killed_on_one_host_is_started_again_on_both(bed, tmp_path, host):
    import random

    running = begin_on_both(bed, tmp_path, "launcher=torchrun", "launcher.restarts=2", "trainer.steps=8")
    wait_for_step(running[host], tmp_path, 2)
    kill_one(running[host], tmp_path, 2, random.Random(0))
    assert [process.wait(timeout=SECONDS) for process in running] == [0, 0], said(tmp_path)
    assert steps(tmp_path) == list(range(8))
    assert "going on from" in said(tmp_path)


@needs_hosts
@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS)
def test_a_request_to_one_host_stops_both_after_the_same_step(bed, tmp_path):
    running = begin_on_both(bed, tmp_path, "launcher=torchrun", "trainer.steps=500")
    wait_for_step(running[1], tmp_path, 2)
    # `ip netns exec` has become the command itself.
    running[1].send_signal(signal.SIGUSR1)
    assert [process.wait(timeout=SECONDS) for process in running] == [STOPPED, STOPPED], said(tmp_path)
    done = len(lines(tmp_path))
    assert f"asked to stop: saved after step {done} of 500" in said(tmp_path)
    assert (tmp_path / "run" / "checkpoints" / f"step-{done:06d}").is_dir()


# ---- SLURM


@pytest.fixture(scope="module")
def cluster():
    with SlurmBed(nodes=2) as made:
        yield made


def submit(cluster, folder, *more):
    """The number of a submitted job."""
    command = [*TRAIN, *words(folder, "launcher=slurm", "launcher.slurm.nodes=2", *more)]
    environment = cluster.environment | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    name, number = done.stdout.split()
    assert name == "job"
    return number


def until(cluster, folder, condition, number):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, f"{cluster.job(number)}\n{said(folder / 'run')}"
        time.sleep(0.2)


def completes(cluster, folder, number, *, starts, total):
    until(cluster, folder, lambda: cluster.job(number).get("JobState") in ("COMPLETED", "FAILED"), number)
    job, shown = cluster.job(number), said(folder / "run")
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", str(starts - 1)), shown
    assert [f"start {n} of job {number}" in shown for n in range(1, starts + 2)] == [True] * starts + [False]
    assert steps(folder) == list(range(total))
    assert (folder / "run" / "perplexity.json").is_file()


@needs_slurm
@pytest.mark.slow
@pytest.mark.timeout(3 * SECONDS)
def test_a_requeued_job_goes_on_by_itself(cluster, tmp_path):
    number = submit(cluster, tmp_path, "trainer.steps=60")
    until(cluster, tmp_path, lambda: len(lines(tmp_path)) >= 3, number)
    cluster.ask("scontrol", "requeue", number)
    completes(cluster, tmp_path, number, starts=2, total=60)
    assert "going on from" in said(tmp_path / "run")


@needs_slurm
@pytest.mark.slow
@pytest.mark.timeout(3 * SECONDS)
def test_a_preempted_job_goes_on_by_itself(cluster, tmp_path):
    number = submit(cluster, tmp_path, "trainer.steps=60")
    until(cluster, tmp_path, lambda: len(lines(tmp_path)) >= 3, number)
    cluster.ask("sbatch", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 3")
    completes(cluster, tmp_path, number, starts=2, total=60)


@needs_slurm
@pytest.mark.slow
@pytest.mark.timeout(4 * SECONDS)
def test_a_job_that_is_warned_of_its_limit_saves_and_takes_another_turn(cluster, tmp_path):
    """A limit is a minute at least: to save that, the signal is sent by hand."""
    number = submit(cluster, tmp_path, "trainer.steps=60")
    until(cluster, tmp_path, lambda: len(lines(tmp_path)) >= 3, number)
    cluster.ask("scancel", "--signal=USR1", number)
    completes(cluster, tmp_path, number, starts=2, total=60)
    assert "asked to stop: saved after step" in said(tmp_path / "run")


@needs_slurm
@pytest.mark.slow
def test_a_killed_cluster_leaves_nothing():
    script = (
        "import sys; from slurm_bed import SlurmBed\nwith SlurmBed(1) as bed:\n print(bed.folder, flush=True)\n input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=SCRIPTS,
    )
    folder = Path(process.stdout.readline().strip())
    assert len(processes_of(folder)) >= 3
    process.kill()
    process.wait()
    wait_for(lambda: not folder.exists() and not processes_of(folder), "it is still there", 30.0)


@needs_slurm
@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
def test_what_sbatch_refuses(cluster, tmp_path):
    command = [*TRAIN, *words(tmp_path, "launcher=slurm", "launcher.slurm.partition=nowhere")]
    done = subprocess.run(command, capture_output=True, text=True, env=cluster.environment, timeout=SECONDS)
    assert done.returncode == 2
    assert "sbatch refused the job (sbatch: error: invalid partition specified: nowhere)" in done.stderr
    assert workers(os.getpid()) == {}
