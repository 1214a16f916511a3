"""What a rank did and when, recorded on request."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Event:
    """kind: `compute`, `post`, `wait`, `pack` or `merge`. start, stop: seconds since the timeline began.

    peer and bytes: of the messages waited for or posted; 0 bytes and None for computation.
    """

    kind: str
    direction: str
    step: int
    start: float
    stop: float
    peer: int | None = None
    bytes: int = 0


@dataclass
class Timeline:
    """Events of one rank in the order in which they ended."""

    rank: int
    events: list[Event] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)

    def now(self) -> float:
        return time.perf_counter() - self.began

    def add(
        self,
        kind: str,
        direction: str,
        step: int,
        start: float,
        *,
        peer: int | None = None,
        bytes: int = 0,
    ) -> None:
        self.events.append(Event(kind, direction, step, start, self.now(), peer, bytes))

    def seconds(self, kind: str) -> float:
        """The time that events of `kind` took together."""
        return sum(event.stop - event.start for event in self.events if event.kind == kind)
