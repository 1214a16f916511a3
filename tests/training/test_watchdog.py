"""A rank that makes no progress says what it waits for, once."""

import contextlib
import logging
import time

import torch

from ringattn import SequenceParallel
from ringattn.runtime.counter import Counter
from ringattn.training.watchdog import Watchdog


class Lines(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


@contextlib.contextmanager
def logged():
    handler = Lines()
    logging.getLogger("ringattn").addHandler(handler)
    try:
        yield handler.lines
    finally:
        logging.getLogger("ringattn").removeHandler(handler)


def test_a_hang_is_reported_once_with_the_schedule_step_and_the_peer():
    counter = Counter()
    with logged() as lines, Watchdog(3, counter, seconds=0.1) as watchdog:
        watchdog.doing("step 7, forward")
        with counter.wait_for("rank 3, ring forward, step 2 of 4: a message from rank 2"):
            time.sleep(0.5)
    [line] = lines
    assert "rank 3: no progress for" in line
    assert "step 7, forward; it waits for (rank 3, ring forward, step 2 of 4: a message from rank 2)" in line
    assert 0.4 < counter.waited < 5


def test_progress_keeps_it_silent():
    with logged() as lines, Watchdog(0, Counter(), seconds=1.0) as watchdog:
        for _ in range(6):
            watchdog.doing("something")
            time.sleep(0.25)
    assert not lines


def test_attention_that_goes_on_keeps_it_silent():
    """A forward pass over a long sequence takes minutes, layer after layer."""
    counter = Counter()
    with logged() as lines, Watchdog(0, counter, seconds=1.0) as watchdog:
        watchdog.doing("step 0, forward")
        for _ in range(4):
            counter.progressed()
            time.sleep(0.25)
            with counter.wait_for("a message from rank 1"):
                time.sleep(0.25)
    assert not lines


def test_a_rank_of_its_own_has_progress_too():
    sp = SequenceParallel()
    query, key, value = (torch.randn(1, 16, 2, 8, requires_grad=True) for _ in range(3))
    before = sp.counter.progress
    out = sp.attention(query, key, value, causal=True)
    between = sp.counter.progress
    out.sum().backward()
    assert before < between < sp.counter.progress


def test_after_a_hang_that_ended_the_next_is_reported():
    counter = Counter()
    with logged() as lines, Watchdog(0, counter, seconds=0.1) as watchdog:
        watchdog.doing("step 0, forward")
        time.sleep(0.4)
        counter.progressed()
        time.sleep(0.4)
    assert len(lines) == 2
