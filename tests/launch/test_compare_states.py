"""`ringattn compare mixer=...` on real ranks: routes of states, measured, predicted, checked and counted."""

import pytest
import torch
from ranks import run_ranks
from ringattn.launch.cli import main
from ringattn.launch.compare.state_job import compare_states
from ringattn.launch.compare.state_run import StateReference, chunk_inputs
from ringattn.launch.compare.state_settings import asks_for_states, read_states

from ringattn.layers.linear.mixers import MIXERS
from ringattn.planner.cluster import Accelerator, Cluster, Kernel, Link, Rate
from ringattn.planner.cluster_file import write_cluster
from ringattn.planner.mixers import MIXER_TRANSITIONS
from ringattn.report import comparison_json
from ringattn.schedule.states import Transition

TINY = ["heads=4", "key_dim=8", "value_dim=8", "repeats=2", "recorded=1", "launcher.threads=1", "ranks=2"]


def compared(rank, words):
    return compare_states(read_states(words, world=2), command="ringattn compare")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The comparison over two ranks with a link of 1 MB/s between them, and its folder."""
    place = tmp_path_factory.mktemp("compare")
    kernel = Kernel(forward=(Rate(1, 1e10),), backward=(Rate(1, 1e10),))
    chip = Accelerator(
        name="core", memory=1e9, memory_bandwidth=1e10, matmul={"float32": 1e10}, attention={"float32": kernel}
    )
    ranks = ("here/gpu0", "here/gpu1")
    write_cluster(Cluster("pair", ranks, ("here",) * 2, chip, (Link(*ranks, 1e6, 1e6),)), place / "pair.yaml")
    words = [*TINY, "mixer=deltanet", f"cluster={place / 'pair.yaml'}", f"folder={place / 'out'}"]
    found, nothing = run_ranks(2, compared, words)
    assert nothing is None, "rank 0 alone has it"
    return found, place / "out"


def test_all_routes_are_measured_predicted_and_exact(made):
    comparison, folder = made
    assert [result.schedule for result in comparison.results] == ["allgather", "pipeline", "ring", "scan"]
    state = transition = 4 * 8 * 8 * 4
    for result in comparison.results:
        assert set(result.error) == {"states", "dT", "dA"} and max(result.error.values()) < 1e-5
        for run in result.passes.values():
            assert len(run.repeats) == 2 and min(min(ranks) for ranks in run.repeats) > 0
            # Zigzag over two ranks is three stretches: the state goes to rank 1 and back, or rank 1's effect comes.
            gathers = result.schedule in ("allgather", "scan")
            assert run.sent == (state, state + transition if gathers else state)
            # The ring's two hops follow each other; all effects travel at once, and the larger one counts.
            busiest = max(run.sent) if gathers else sum(run.sent)
            if result.schedule in ("allgather", "ring"):
                assert run.predicted == pytest.approx(busiest / 1e6, rel=0.02)
            assert run.timeline[0].seconds("compute") > 0
    assert comparison_json.read(folder / "report.jsonl") == comparison
    assert "states 8 x 8 of deltanet, a matrix of each head" in (folder / "report.txt").read_text()


def test_a_reference_finds_what_is_wrong():
    config = read_states(["heads=1", "key_dim=2", "value_dim=2", "ranks=2", "mixer=gla", "length=3"])
    layout = config.cut(2)
    effects, grad = chunk_inputs(config, layout, range(2))
    # Of three tokens over zigzag's four chunks, the last has none: rank 0 holds the first and that one.
    assert effects.transition[1].eq(1).all() and not effects.addition[1].any() and not grad[1].any()
    wrong = {"states": torch.ones_like(grad), "dT": torch.zeros_like(effects.transition), "dA": torch.zeros_like(grad)}
    found = StateReference(config, layout, 0).error(wrong)
    assert min(found["states"], found["dA"]) > 0.1


def test_every_mixer_is_known():
    assert set(MIXER_TRANSITIONS) == set(MIXERS)
    assert read_states(["mixer=retnet"]).sizes.transition is Transition.SCALAR
    assert asks_for_states(["routes=ring"]) and not asks_for_states(["schedules=ring"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mixer=gated_delta"], "unknown mixer 'gated_delta' (did you mean 'gated_deltanet'?)"),
        (["routes=rng"], "unknown state route 'rng' (did you mean 'ring'?)"),
        (["routes=ring", "layout=striped"], "layout 'striped' deals tokens out to the ranks one by one"),
        (["routes=pipeline:slices=99", "heads=2"], "can be cut into 64 slices at most, got 99"),
        (["routes=ring", "ranks=1"], "routes are compared over two ranks or more"),
        (["routes=ring", "query_heads=4"], "there is no setting query_heads"),
        (["routes=ring", "dtype=bfloat16"], "dtype"),
        (["mixer=gla", "cluster=nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_met_before_any_rank_starts(words, said, capsys):
    assert main(["compare", *words]) == 2
    assert said in capsys.readouterr().err
