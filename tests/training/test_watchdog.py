"""A rank that makes no progress says what it waits for, once."""

import contextlib
import logging
import time

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
