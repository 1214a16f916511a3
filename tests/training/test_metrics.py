"""What is recorded and shown."""

import io

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


def record(folder, *, stream=None, enabled=True):
    configure_logging(enabled=enabled)
    recorder = Recorder(folder, steps=2, wandb="off", settings={}, enabled=enabled, stream=stream)
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
