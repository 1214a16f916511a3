"""Leaving on request: SIGTERM (a scheduler that wants the machine back, a launcher that ends) lets the step in progress
finish, saves and leaves."""

from __future__ import annotations

import signal
from types import FrameType


class StopRequest:
    """Whether this process was asked to leave. Signals ask from the moment on that `listen` was called."""

    def __init__(self) -> None:
        self.asked = False

    def listen(self) -> None:
        """Take SIGTERM, and SIGUSR1, by which SLURM can warn of a limit, as requests."""
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
