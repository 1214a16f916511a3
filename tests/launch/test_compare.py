"""`ringattn compare` on real ranks: what it finds out, what it writes, and how it ends where a rank fails."""

import itertools
import os
import subprocess
import sys

import pytest
from ranks import refusals, run_ranks
from ringattn.launch.compare.assemble import promised
from ringattn.launch.compare.job import compare
from ringattn.launch.compare.settings import read

from ringattn.planner.cluster import Accelerator, Cluster, Kernel, Link, Overhead, Rate
from ringattn.planner.cluster_file import read_cluster, write_cluster
from ringattn.planner.predict import as_run, predict
from ringattn.report import comparison_json

TINY = ["length=301", "query_heads=4", "key_heads=2", "head_dim=8", "repeats=3", "recorded=2", "launcher.threads=1"]

TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m")

# usp cannot split heads into three groups over two ranks.
SCHEDULES = "ring,tokenring,usp:heads=3"


def a_cluster(path):
    """Two ranks joined by one link of 1 GB/s each way."""
    kernel = Kernel(forward=(Rate(1, 1e10),), backward=(Rate(1, 1e10),))
    accelerator = Accelerator(
        name="core", memory=1e9, memory_bandwidth=1e10, matmul={"float32": 2e10}, attention={"float32": kernel}
    )
    ranks = ("here/gpu0", "here/gpu1")
    link = Link(*ranks, 1e9, 1e9, 1e-5)
    write_cluster(Cluster("pair", ranks, ("here",) * 2, accelerator, (link,), Overhead(step=1e-5)), path)
    return path


def compared(rank, words):
    return compare(read(words, world=2), command="ringattn compare")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The comparison of a tiny problem, its folder and its settings."""
    place = tmp_path_factory.mktemp("compare")
    words = [*TINY, f"schedules={SCHEDULES}", f"cluster={a_cluster(place / 'pair.yaml')}", f"folder={place / 'out'}"]
    found, nothing = run_ranks(2, compared, words)
    assert nothing is None, "rank 0 alone has it"
    return found, place / "out", read(words)


def test_every_schedule_has_its_times_or_the_reason_why_not(made):
    comparison, _, _ = made
    assert [result.schedule for result in comparison.results] == ["ring", "tokenring", "usp:heads=3"]
    *ran, skipped = comparison.results
    assert "heads must divide the number of ranks" in skipped.skipped and not skipped.passes
    for result in ran:
        for run in result.passes.values():
            assert len(run.repeats) == 3 and all(len(ranks) == 2 and min(ranks) > 0 for ranks in run.repeats)
            assert 0 < run.compute_bound < max(run.spread)


def test_the_bytes_are_those_that_the_verifier_promises(made):
    comparison, _, config = made
    workload = config.workload(2)
    for result in comparison.results[:2]:
        for direction, run in result.passes.items():
            promise = promised(as_run(result.schedule, workload), workload, backward=direction == "backward")
            assert run.sent == promise and run.received == promise[::-1]
            assert (run.up, run.down) == ((promise[0], 0), (0, promise[1]))
            assert {link.bytes for link in run.links} == set(promise)
            assert run.wire_bound == max(promise) / 1e9


def test_results_are_those_of_attention_in_fp64(made):
    for result in made[0].results[:2]:
        assert set(result.error) == {"out", "dq", "dk", "dv"}
        assert all(0 < error < 5e-6 for error in result.error.values())


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_the_timelines_tell_in_order_what_each_rank_did(made, direction):
    for result in made[0].results[:2]:
        run = result.passes[direction]
        assert [timeline.rank for timeline in run.timeline] == [0, 1]
        for timeline in run.timeline:
            kinds = {kind: [e for e in timeline.events if e.kind == kind] for kind in ("compute", "send", "receive")}
            assert all(kinds.values()) and {e.direction for e in timeline.events} == {direction}
            assert all(0 <= e.start <= e.stop for e in timeline.events)
            stops = [e.stop for e in timeline.events]
            assert stops == sorted(stops)
            computed = kinds["compute"]
            assert all(a.stop <= b.start for a, b in itertools.pairwise(computed)), "one task at a time"
            assert {e.peer for e in (*kinds["send"], *kinds["receive"])} == {1 - timeline.rank}
            assert sum(e.bytes for e in kinds["send"]) == run.sent[timeline.rank]
            assert sum(e.bytes for e in kinds["receive"]) == run.received[timeline.rank]
            waits = [e for e in timeline.events if e.kind == "wait"]
            ends = [e.stop for e in (*kinds["send"], *kinds["receive"])]
            assert sorted(e.stop for e in waits) == sorted(ends), "a message is seen done when it is waited for"
            assert run.exposed[timeline.rank] == pytest.approx(sum(e.stop - e.start for e in waits))
        # What the backward brings home is added on arrival, and so are the forward's results where queries travel.
        merges = sum(e.kind == "merge" for timeline in run.timeline for e in timeline.events)
        assert bool(merges) == (direction == "backward" or result.schedule == "tokenring")


def test_predictions_are_the_simulator_s(made):
    comparison, folder, config = made
    cluster = read_cluster(folder.parent / "pair.yaml")
    for result in comparison.results[:2]:
        for direction, run in result.passes.items():
            wanted = predict(
                result.schedule, config.workload(2), cluster, backward=direction == "backward", record=True
            )
            assert run.predicted == wanted.seconds > 0
            assert run.predicted_timeline == wanted.timelines and run.predicted_exposed == wanted.waited
            assert run.wire_bound == wanted.wire_bound(cluster)[0]


def test_buffers_and_memory_are_counted(made):
    inputs = 301 * 8 * (4 + 2) * 2 * 4 // 2
    for result in made[0].results[:2]:
        assert all(0 < held < whole for held, whole in zip(result.peak_buffer_bytes, result.peak_memory_bytes))
        assert all(whole > inputs for whole in result.peak_memory_bytes)


def test_the_setup_says_what_ran_where(made):
    setup = made[0].setup
    assert (setup.ranks, setup.length, setup.mask, setup.cluster) == (2, 301, "causal", "pair")
    assert len(set(setup.hosts)) == 1 and setup.command == "ringattn compare"
    assert {"processor", "cores", "memory"} <= set(setup.hardware) and {"torch", "python"} <= set(setup.versions)
    assert setup.commit


def test_what_is_written_is_what_was_found(made):
    comparison, folder, _ = made
    assert comparison_json.read(folder / "report.jsonl") == comparison
    names = {"report.jsonl", "report.txt", "report.html", "report.png", "trace.json"}
    assert {path.name for path in folder.iterdir()} == names


def test_what_one_rank_refuses_every_rank_refuses(tmp_path):
    words = [*TINY, "schedules=ring", "cluster=null"]
    for told in refusals(2, compared, [*words, f"folder={tmp_path}"], threads=True):
        assert f"{tmp_path} exists: choose another folder=..." in told
    for told in refusals(2, compared, [*words, f"folder={tmp_path / 'new'}", "kernel=flsh"], threads=True):
        assert "unknown kernel 'flsh' (did you mean 'cpu_flash'?)" in told


MINE = """
import os
from ringattn.schedule import make_schedule

def mine(shape):
    return make_schedule("tokenring", shape)

def differs(shape):
    return make_schedule("ring" if os.environ["RANK"] == "1" else "tokenring", shape)

def dies(shape):
    if os.environ["RANK"] == "1":
        os._exit(3)
    return mine(shape)
"""


def run(*words, folder, launcher=("ringattn",)):
    done = subprocess.run(
        [sys.executable, "-m", *launcher, "compare", *TINY, "cluster=null", f"folder={folder / 'out'}", *words],
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return done.returncode, done.stdout, done.stderr


def test_the_command_runs_schedules_of_one_s_own(tmp_path):
    (tmp_path / "own.py").write_text(MINE)
    own = f"{tmp_path / 'own.py'}"
    code, shown, errors = run(f"schedules={own}:mine,{own}:differs", "backward=ring", folder=tmp_path)
    assert code == 0, errors
    assert f"wrote {tmp_path / 'out' / 'report.html'}" in shown and "nothing is predicted" in shown
    found = comparison_json.read(tmp_path / "out" / "report.jsonl")
    assert [result.schedule for result in found.results] == [f"{own}:{n}, backward ring" for n in ("mine", "differs")]
    assert found.results[0].passes and "the forward's schedule differs" in found.results[1].skipped
    assert found.setup.command.startswith("ringattn compare length=301 ")


def test_a_rank_that_fails_ends_the_run_with_one_line(tmp_path):
    (tmp_path / "own.py").write_text(MINE)
    code, _, errors = run(f"schedules={tmp_path / 'own.py'}:dies", folder=tmp_path)
    assert code == 3
    assert "Traceback" not in errors and not (tmp_path / "out").exists()


def test_under_torchrun_a_mistake_is_said_once_and_nobody_waits(tmp_path):
    code, _, errors = run("repeat=3", folder=tmp_path, launcher=(*TORCHRUN, "ringattn"))
    assert code != 0 and errors.count("there is no setting repeat. Did you mean 'repeats'?") == 1


def test_under_torchrun_the_ranks_that_are_there_are_taken(tmp_path):
    words = ("schedules=ring", "repeats=1", "error=false")
    code, _, errors = run(*words, folder=tmp_path, launcher=(*TORCHRUN, "ringattn"))
    assert code == 0, errors
    found = comparison_json.read(tmp_path / "out" / "report.jsonl")
    assert found.setup.ranks == 2 and found.results[0].error == {}
    assert found.setup.command.startswith("torchrun --nproc-per-node 2 -m ringattn compare length=301 ")
