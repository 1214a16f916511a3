"""What a rank has put on the wire and taken from it, by peer, and what it waited for."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Counter:
    """sent_to, received_from: bytes by peer. sent_messages: the number of all messages sent. waited: seconds in which
    the rank waited for messages and did nothing else. For whoever looks from another thread, by
    `time.monotonic`: `waiting`, what it waits for now and since when; `progress`, when it last got further."""

    def __init__(self) -> None:
        self.waiting: tuple[str, float] | None = None
        self.progress = time.monotonic()
        self.reset()

    def reset(self) -> None:
        """Count from nothing again."""
        self.sent_to: defaultdict[int, int] = defaultdict(int)
        self.received_from: defaultdict[int, int] = defaultdict(int)
        self.sent_messages = 0
        self.waited = 0.0

    @property
    def sent_bytes(self) -> int:
        return sum(self.sent_to.values())

    @property
    def received_bytes(self) -> int:
        return sum(self.received_from.values())

    def progressed(self) -> None:
        """A task is computed, or a message came or went."""
        self.progress = time.monotonic()

    @contextmanager
    def wait_for(self, what: str) -> Iterator[None]:
        """Counts the time inside as waited, and shows `what` meanwhile."""
        since = time.monotonic()
        self.waiting = (what, since)
        try:
            yield
            self.progressed()
        finally:
            self.waiting = None
            self.waited += time.monotonic() - since
