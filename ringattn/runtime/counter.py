"""What a rank has put on the wire and taken from it, by peer."""

from __future__ import annotations

from collections import defaultdict


class Counter:
    """sent_to, received_from: bytes by peer. sent_messages: the number of all messages sent."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Count from nothing again."""
        self.sent_to: defaultdict[int, int] = defaultdict(int)
        self.received_from: defaultdict[int, int] = defaultdict(int)
        self.sent_messages = 0

    @property
    def sent_bytes(self) -> int:
        return sum(self.sent_to.values())

    @property
    def received_bytes(self) -> int:
        return sum(self.received_from.values())
