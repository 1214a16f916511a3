"""wandb and TensorBoard get the steps, a run that goes on is one run, and a tracker's failure costs nothing."""

import sys
import types

import pytest

from ringattn.training.metrics import Recorder, StepMetrics, configure_logging, read_metrics
from ringattn.training.trackers import Trackers


def step(number):
    return StepMetrics(
        step=number,
        loss=2.0 - number,
        learning_rate=0.1,
        gradient_norm=1.0,
        tokens_per_second=1234.0,
        seconds=0.5,
        peak_memory=10,
        parts={"forward": 0.25},
    )


def record(folder, *, done=0, **trackers):
    configure_logging(enabled=True)
    folder.mkdir(exist_ok=True)
    chosen = {"wandb": "off", **trackers}
    with Recorder(folder, steps=2, settings={"seed": 7}, enabled=True, done=done, **chosen) as recorder:
        for number in range(done, 2):
            recorder.step(step(number))
        recorder.summary({"held_out_loss": 1.0})


class FakeRun:
    def __init__(self):
        self.logged, self.ends, self.axes = [], [], []

    def define_metric(self, name, step_metric=None):
        self.axes.append((name, step_metric))

    def log(self, values):
        self.logged.append(values)

    def finish(self, exit_code):
        self.ends.append(exit_code)


def fake_wandb(monkeypatch, init):
    module = types.ModuleType("wandb")
    module.Settings = lambda **_: None
    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)


def fake_runs(monkeypatch):
    """The runs that were begun, and what each was begun with."""
    runs, begun = [], []

    def init(**settings):
        begun.append(settings)
        runs.append(FakeRun())
        return runs[-1]

    fake_wandb(monkeypatch, init)
    return runs, begun


def test_wandb_gets_the_steps_the_summary_and_the_end(tmp_path, monkeypatch):
    runs, begun = fake_runs(monkeypatch)
    record(tmp_path / "run", wandb="offline")
    [run] = runs
    assert [(values["step"], values.get("loss")) for values in run.logged] == [(0, 2.0), (1, 1.0), (2, None)]
    assert run.logged[0]["seconds/forward"] == 0.25
    assert run.logged[2] == {"held_out_loss": 1.0, "step": 2} and run.ends == [0]
    assert run.axes == [("step", None), ("*", "step")]
    assert begun[0]["config"] == {"seed": 7} and begun[0]["mode"] == "offline"


def test_a_run_that_goes_on_is_the_same_run_of_wandb_and_another_folder_is_another(tmp_path, monkeypatch):
    _, begun = fake_runs(monkeypatch)
    for folder, done in (("one", 0), ("one", 1), ("two", 0)):
        record(tmp_path / folder, done=done, wandb="online")
    first, again, other = begun
    assert first["id"] == again["id"] != other["id"]
    assert first["resume"] == again["resume"] == "allow"
    assert (first["name"], other["name"]) == ("one", "two")


def test_wandb_s_own_variables_name_the_project_and_the_run(tmp_path, monkeypatch):
    _, begun = fake_runs(monkeypatch)
    record(tmp_path / "run", wandb="offline")
    monkeypatch.setenv("WANDB_PROJECT", "long books")
    monkeypatch.setenv("WANDB_NAME", "first try")
    record(tmp_path / "run", wandb="offline")
    assert [(each["project"], each["name"]) for each in begun] == [("ringattn", "run"), ("long books", "first try")]


def test_an_error_of_the_run_is_told(tmp_path, monkeypatch):
    runs, _ = fake_runs(monkeypatch)
    (tmp_path / "run").mkdir()
    with (
        pytest.raises(KeyboardInterrupt),
        Recorder(tmp_path / "run", steps=2, wandb="offline", settings={}, enabled=True),
    ):
        raise KeyboardInterrupt
    assert runs[0].ends == [1]


def test_wandb_that_cannot_start_is_reported_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    def init(**_):
        raise RuntimeError("no API key")

    fake_wandb(monkeypatch, init)
    record(tmp_path, wandb="online")
    assert len(read_metrics(tmp_path)) == 2
    assert capsys.readouterr().err.count("wandb did not start (no API key): the run goes on") == 1


def test_wandb_that_fails_later_is_reported_once_and_not_asked_again(tmp_path, monkeypatch, capsys):
    class Failing(FakeRun):
        def log(self, values):
            raise OSError("connection lost")

    run = Failing()
    fake_wandb(monkeypatch, lambda **_: run)
    record(tmp_path, wandb="online")
    assert len(read_metrics(tmp_path)) == 2 and run.ends == []
    assert capsys.readouterr().err.count("wandb failed (connection lost)") == 1


def test_tensorboard_s_files_hold_every_step_once_after_a_restart(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    record(tmp_path, tensorboard=True)
    record(tmp_path, tensorboard=True, done=1)
    found = events.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(0, 2.0), (1, 1.0)]
    assert [event.value for event in found.Scalars("held_out_loss")] == [1.0]
    assert [event.step for event in found.Scalars("seconds/forward")] == [0, 1]


def test_wandb_offline_is_one_run_in_two_parts(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for _ in range(2):
        trackers = Trackers(tmp_path, wandb="offline", settings={})
        trackers.log({"loss": 1.0}, 0)
        trackers.close(failed=False)
    parts = [*(tmp_path / "wandb").glob("offline-run-*")]
    [name] = {part.name.rpartition("-")[2] for part in parts}
    assert (tmp_path / "wandb" / "run_id").read_text().strip() == name


def test_wandb_online_without_a_network_costs_the_run_nothing(tmp_path, monkeypatch, capsys):
    """A key, and a server that refuses connections."""
    pytest.importorskip("wandb")
    monkeypatch.setattr("ringattn.training.trackers.WANDB_START_SECONDS", 3)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    record(tmp_path, wandb="online")
    assert len(read_metrics(tmp_path)) == 2
    assert "wandb did not start" in capsys.readouterr().err
