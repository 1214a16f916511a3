"""What the loop does with steps that are not finite, with a request to stop, and with where it stands."""

import pytest
import torch
from engine_runs import LENGTH, Losses, Made, make_engine

import ringattn
from ringattn.runtime.rows import Rows
from ringattn.settings.trainer import TrainerConfig
from ringattn.training.loop import train
from ringattn.training.stop import StopRequest
from ringattn.training.watchdog import Watchdog


class Poisoned(Made):
    """From sequence number `first` to before `end`, the loss is not a number: the test's engine makes it so."""

    def __init__(self, first, end):
        self.first, self.end = first, end


def run(data, *, steps=6, skip_limit=2, stop=None, save_every=0):
    sp = ringattn.SequenceParallel()
    engine = make_engine(sp, stage=None, accumulation=1, steps=steps)
    seen, saved = Losses(), []
    plain = engine.reader.loss_sum
    numbers = iter(range(steps))

    def loss_sum(sequence):
        number = next(numbers)
        bad = isinstance(data, Poisoned) and data.first <= number < data.end
        return plain(sequence) * (float("nan") if bad else 1.0)

    engine.reader.loss_sum = loss_sum
    trainer = TrainerConfig(steps=steps, sequence_length=LENGTH, skip_limit=skip_limit)
    with Watchdog(0, sp.counter, seconds=0) as watchdog:
        position = train(
            engine,
            data,
            trainer=trainer,
            rows=Rows(number=1, index=0),
            recorder=seen,
            save=lambda where: saved.append(where.step),
            save_every=save_every,
            stop=stop,
            watchdog=watchdog,
        )
    return engine, seen.steps_seen, position, saved


def test_steps_that_are_not_finite_are_skipped_and_counted():
    engine, steps, position, _ = run(Poisoned(2, 4))
    assert [step.applied for step in steps] == [True, True, False, False, True, True]
    assert (position.step, position.updates) == (6, 4)
    assert all(torch.isfinite(tensor).all() for _, tensor in engine.weights())


def test_too_many_in_a_row_stop_the_run():
    with pytest.raises(ValueError, match=r"not in 3 steps in a row, the last of them step 4 .*trainer.skip_limit"):
        run(Poisoned(2, 6))


def test_a_request_to_stop_ends_the_loop_after_the_step_in_progress():
    stop = StopRequest()
    stop.asked = True
    _, steps, position, _ = run(Made(), stop=stop)
    assert (len(steps), position.step) == (1, 1)


def test_checkpoints_are_asked_for_at_their_interval_and_not_at_the_end():
    assert run(Made(), save_every=2)[3] == [2, 4]
