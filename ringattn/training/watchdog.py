"""Says where a run hangs, while it hangs.

A peer that never answers is an error after `schedule.timeout`, which may be long, and a collective of another library
says nothing of its own. The watchdog is a thread that only looks: where a rank comes to no new part of the training
step and its attention gets no further for a while, it logs once what it is doing: the schedule step and the peer that
attention waits for, or the part of the training step.
"""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType

from ringattn.runtime.counter import Counter

logger = logging.getLogger("ringattn")


class Watchdog:
    """Reports a rank that makes no progress for `seconds` (0: never). counter: of the rank's attention."""

    def __init__(self, rank: int, counter: Counter, *, seconds: float) -> None:
        self._rank, self._counter, self._seconds = rank, counter, seconds
        self._doing, self._since = "starting", time.monotonic()
        self._reported: float | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def doing(self, what: str) -> None:
        """The rank has come to `what`: progress."""
        self._doing, self._since = what, time.monotonic()

    def __enter__(self) -> Watchdog:
        if self._seconds > 0:
            self._thread = threading.Thread(target=self._watch, name="ringattn-watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self._seconds / 4)):
            # A part of a step of a long sequence takes minutes: attention that goes on is progress as well.
            last = max(self._since, self._counter.progress)
            idle = time.monotonic() - last
            if idle >= self._seconds and self._reported != last:
                self._reported = last
                # An error, so that ranks which log nothing else log it too.
                logger.error("%s", self.report(idle))

    def report(self, idle: float) -> str:
        """One line on what this rank does, idle for so many seconds."""
        waiting = self._counter.waiting
        where = f"rank {self._rank}: no progress for {idle:.0f} s in {self._doing}"
        if waiting is None:
            return f"{where}; its attention waits for nothing"
        what, since = waiting
        return f"{where}; it waits for ({what}) since {time.monotonic() - since:.0f} s"
