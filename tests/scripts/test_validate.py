"""scripts/validate: what its tables say of made-up figures, its cases and folders, and one small real run."""

import json
import subprocess
import sys

import pytest
from hosts import SCRIPTS, needs_hosts
from validate import command
from validate.cases import HOSTS, Bed, Case, Effort, all_cases, choose
from validate.figures import TARGETS, Figure, percentile, summarize
from validate.record import Run, read_run
from validate.tables import markdown, told

from ringattn.planner.timeline import Event, RankTimeline
from ringattn.report import comparison_json
from ringattn.report.comparison import Comparison, Pass, Result, Setup

STORED = sorted(path.parent for path in (SCRIPTS.parent / "docs" / "measurements").glob("*/run.json"))


def figure(schedule, measured, predicted, *, case="mesh-50Mbit-8-8-full", direction="forward", wire_bound=0.1):
    return Figure(
        case=case,
        schedule=schedule,
        direction=direction,
        measured=measured,
        fastest=measured,
        predicted=predicted,
        wire_bound=wire_bound,
    )


def comparison_of_one():
    """One schedule, one direction, two ranks, two repeats."""
    setup = Setup(
        ranks=2,
        hosts=("a", "b"),
        length=64,
        batch=1,
        query_heads=8,
        key_heads=8,
        head_dim=64,
        dtype="float32",
        mask="full",
        layout="zigzag",
        repeats=2,
        cluster=None,
        hardware={},
        versions={},
        commit="none",
        command="ringattn compare",
        started="2026-11-23T00:00:00+00:00",
    )
    measured = Pass(
        repeats=((0.12345678, 0.2), (0.3, 0.1)),
        sent=(8, 8),
        received=(8, 8),
        up=(8, 0),
        down=(0, 8),
        compute_bound=0.1,
        wire_bound=None,
        exposed=(0.0, 0.0),
        timeline=(RankTimeline(0, (Event("compute", "forward", 0, 0.0, 0.1),)),),
    )
    return Comparison(setup=setup, results=(Result(schedule="ring", forward=measured),))


def test_errors_are_relative_to_what_was_measured():
    summary = summarize([figure("ring", 0.2, 0.19), figure("tile", 0.2, 0.26), figure("usp", 0.2, 0.2)])
    assert summary.count == 3
    assert summary.error_median == pytest.approx(0.05)
    assert summary.error_p90 == pytest.approx(0.3)
    assert summary.bias == pytest.approx(0.0)
    assert [worst.schedule for worst in summary.worst] == ["tile", "ring", "usp"]
    assert summary.by_schedule["tile forward"] == pytest.approx(0.3)


def test_a_percentile_is_one_of_the_values():
    assert percentile([4, 1, 3, 2], 0.9) == 4
    assert percentile([*range(1, 11)], 0.9) == 9
    assert percentile([5], 0.9) == 5


def test_the_pick_is_what_is_predicted_to_be_the_fastest():
    summary = summarize([figure("ring", 0.30, 0.20), figure("tile", 0.24, 0.21), figure("usp", 0.25, 0.19)])
    (pick,) = summary.picks
    assert (pick.picked, pick.best) == ("usp", "tile")
    assert pick.over_best == pytest.approx(0.25 / 0.24) == summary.worst_pick


def test_cases_and_directions_are_judged_apart():
    figures = [
        figure("ring", 0.2, 0.2, case=case, direction=direction)
        for case in ("a", "b")
        for direction in ("forward", "backward")
    ]
    summary = summarize(figures)
    assert [(pick.case, pick.direction) for pick in summary.picks] == [
        ("a", "forward"),
        ("a", "backward"),
        ("b", "forward"),
        ("b", "backward"),
    ]
    assert [(bound.schedule, bound.direction) for bound in summary.bounds] == [
        ("ring", "forward"),
        ("ring", "backward"),
    ]


def test_time_over_the_wire_bound():
    summary = summarize([figure("ring", 0.11, 0.1, case="a"), figure("ring", 0.15, 0.12, case="b")])
    (bound,) = summary.bounds
    assert bound.median == pytest.approx(1.3)
    assert (bound.worst, bound.worst_case) == (pytest.approx(1.5), "b")
    assert (bound.predicted_median, bound.predicted_worst) == (pytest.approx(1.1), pytest.approx(1.2))


def test_tokenring_over_ring():
    summary = summarize([figure("ring", 0.5, 0.4), figure("tokenring", 0.3, 0.2)])
    (gain,) = summary.gains
    assert (gain.measured, gain.predicted) == (pytest.approx(0.6), pytest.approx(0.5))
    assert "| mesh-50Mbit-8-8-full | tokenring | forward   |    0.600 |     0.500 | <= 0.65 |" in told(summary)


def test_nothing_measured_is_refused():
    with pytest.raises(ValueError, match="nothing was measured"):
        summarize([])


def test_tables_line_up():
    assert markdown(["name", "ms"], [["ring", "12.5"], ["tokenring", "8.0"]]).splitlines() == [
        "| name      |   ms |",
        "|-----------|-----:|",
        "| ring      | 12.5 |",
        "| tokenring |  8.0 |",
    ]


def test_twelve_cases():
    cases = all_cases(["50Mbit"])
    assert [case.name for case in cases[:4]] == [
        "mesh-50Mbit-8-8-full",
        "mesh-50Mbit-8-8-causal",
        "mesh-50Mbit-8-2-full",
        "mesh-50Mbit-8-2-causal",
    ]
    assert len(cases) == len({case.name for case in cases}) == 12
    assert len(all_cases(["50Mbit", "100Mbit"])) == 24


def test_cases_by_pattern():
    cases = all_cases(["50Mbit"])
    assert [case.bed.kind for case in choose(cases, [], quick=True)] == ["mesh", "switch", "two-level"]
    assert len(choose(cases, ["mesh-*", "*-8-2-causal"], quick=False)) == 6
    with pytest.raises(ValueError, match="no case fits 'torus-\\*'"):
        choose(cases, ["torus-*"], quick=False)


def test_groups_are_joined_by_slower_links():
    topology = Bed("two-level", "50Mbit").topology()
    assert (topology.rate, topology.between) == (12.5e6, 6.25e6)
    assert topology.num_hosts == HOSTS


def test_settings_are_those_of_compare():
    config = Effort(length=64, repeats=2, schedules=("ring", "tile")).config(Case(Bed("mesh", "1Gbit"), 8, 2, True))
    assert (config.length, config.query_heads, config.key_heads, config.head_dim) == (64, 8, 2, 64)
    assert (config.causal, config.repeats, config.named) == (True, 2, ["ring", "tile"])


def test_a_run_is_read_back(tmp_path):
    cases = all_cases(["50Mbit"])[:2]
    run = Run.begin(tmp_path / "run", Effort(length=64, schedules=("ring",)), cases)
    assert read_run(tmp_path / "run") == run
    assert run.measured() == []
    with pytest.raises(ValueError, match=r"holds no run, for there is no run\.json"):
        read_run(tmp_path)


def test_a_stored_run_has_no_timelines(tmp_path):
    case, other = all_cases(["50Mbit"])[:2]
    run = Run.begin(tmp_path / "run", Effort(), [case, other])
    run.cluster_file(case.bed).write_text("name: made up\n")
    run.report(case).parent.mkdir()
    comparison = comparison_of_one()
    comparison_json.write(comparison, run.report(case))

    small = run.store(tmp_path / "small")

    assert small.cases == (case,), "what was not measured is left out"
    assert read_run(tmp_path / "small") == small
    assert small.cluster_file(case.bed).read_text() == "name: made up\n"
    stored = comparison_json.read(small.report(case))
    assert stored.setup == comparison.setup
    (result,) = stored.results
    assert result.forward.timeline == ()
    assert result.forward.repeats == ((0.123457, 0.2), (0.3, 0.1))


def test_mistakes_are_one_sentence(tmp_path, capsys):
    assert command.main(["--replay", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"validate: {tmp_path} holds no run")
    assert command.main(["--rates", "fast"]) == 2
    assert "a rate is a number and a unit a second" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(600)
@needs_hosts
def test_a_small_run_and_its_replay(tmp_path):
    entry, out = str(SCRIPTS / "validate.py"), tmp_path / "out"
    words = ["--cases", "mesh-*-8-2-full", "--schedules", "ring,tile", "--length", "128", "--repeats", "1"]
    done = subprocess.run([sys.executable, entry, *words, "--out", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| all 4, median" in done.stdout
    again = subprocess.run([sys.executable, entry, "--replay", str(out)], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert again.stdout in done.stdout
    assert json.loads((out / "summary.json").read_text())["count"] == 4


@pytest.mark.parametrize("folder", STORED, ids=lambda folder: folder.name)
def test_stored_measurements_are_still_predicted(folder):
    """The targets for predictions, against what was measured once: what a change of the simulator must not lose."""
    summary = summarize([*read_run(folder).figures()])
    assert summary.error_median <= TARGETS["error, median"]
    assert summary.error_p90 <= TARGETS["error, 90th percentile"]
    assert summary.worst_pick <= TARGETS["pick over best"]
