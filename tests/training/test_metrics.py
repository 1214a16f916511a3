"""What is recorded and shown, and that a tracker's failure costs nothing."""

import io
import sys
import types

from ringattn.training.metrics import Recorder, StepMetrics, configure_logging, read_metrics


def step(number):
    return StepMetrics(
        step=number,
        loss=2.0,
        learning_rate=0.1,
        gradient_norm=1.0,
        tokens_per_second=1234.0,
        seconds=0.5,
        peak_memory=10,
    )


class Terminal(io.StringIO):
    def isatty(self):
        return True


def record(folder, *, wandb="off", stream=None, enabled=True):
    configure_logging(enabled=enabled)
    recorder = Recorder(folder, steps=2, wandb=wandb, settings={}, enabled=enabled, stream=stream)
    with recorder:
        recorder.step(step(0))
        recorder.step(step(1))
        recorder.summary({"held_out_loss": 1.0})


def test_every_step_is_one_line_that_reads_back(tmp_path, capsys):
    record(tmp_path)
    assert read_metrics(tmp_path) == [step(0), step(1)]
    shown = capsys.readouterr().err
    assert "step 1/2  loss 2.000  1,234 tokens/s  00:00 left" in shown


def test_a_terminal_gets_a_bar_with_loss_and_rate(tmp_path):
    terminal = Terminal()
    record(tmp_path, stream=terminal)
    assert "2/2" in terminal.getvalue() and "loss=2.000" in terminal.getvalue()
    assert "tokens/s=1,234" in terminal.getvalue()


def test_other_ranks_write_and_show_nothing(tmp_path, capsys):
    record(tmp_path, enabled=False)
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().err == ""


def fake_wandb(monkeypatch, **functions):
    module = types.ModuleType("wandb")
    module.Settings = lambda **_: None
    for name, function in functions.items():
        setattr(module, name, function)
    monkeypatch.setitem(sys.modules, "wandb", module)


def test_wandb_that_cannot_start_is_reported_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    def init(**_):
        raise RuntimeError("no API key")

    fake_wandb(monkeypatch, init=init)
    record(tmp_path, wandb="online")
    assert len(read_metrics(tmp_path)) == 2
    assert capsys.readouterr().err.count("wandb did not start (no API key): the run goes on") == 1


def test_wandb_that_fails_later_is_reported_once(tmp_path, monkeypatch, capsys):
    class Run:
        def log(self, values):
            raise OSError("connection lost")

        def finish(self, exit_code):
            raise AssertionError("a run that failed is not asked again")

    fake_wandb(monkeypatch, init=lambda **_: Run())
    record(tmp_path, wandb="online")
    assert len(read_metrics(tmp_path)) == 2
    assert capsys.readouterr().err.count("wandb failed (connection lost)") == 1


def test_wandb_gets_the_steps_the_summary_and_the_end(tmp_path, monkeypatch):
    logged, ends = [], []

    class Run:
        def log(self, values):
            logged.append(values)

        def finish(self, exit_code):
            ends.append(exit_code)

    fake_wandb(monkeypatch, init=lambda **_: Run())
    record(tmp_path, wandb="offline")
    assert [values.get("loss") for values in logged] == [2.0, 2.0, None]
    assert logged[2] == {"held_out_loss": 1.0} and ends == [0]
