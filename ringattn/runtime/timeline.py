"""The recorder of what a rank does and when, on request."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ringattn.planner.timeline import Event, RankTimeline


@dataclass
class Timeline:
    """Events of one rank in the order in which they ended.

    A `send` or `receive` lasts from the time at which it was posted until the rank saw it done, which it does when it
    waits for it: a message may have been there for a while.

    began: by `time.perf_counter`. Processes of one host share that clock on Linux.
    synchronize: called before each look at the clock; for a device that runs behind the program that feeds it.
    """

    rank: int
    synchronize: Callable[[], None] | None = None
    events: list[Event] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)

    def now(self) -> float:
        """Seconds since the timeline began."""
        if self.synchronize is not None:
            self.synchronize()
        return time.perf_counter() - self.began

    def add(
        self,
        kind: str,
        direction: str,
        step: int,
        start: float,
        *,
        stop: float | None = None,
        peer: int | None = None,
        bytes: int = 0,
    ) -> None:
        """An event that ends now, unless `stop` says when; the fields are those of `Event`."""
        self.events.append(Event(kind, direction, step, start, self.now() if stop is None else stop, peer, bytes))

    def seconds(self, kind: str) -> float:
        """The time that events of `kind` took together."""
        return self.whole().seconds(kind)

    def whole(self) -> RankTimeline:
        """What was recorded so far, as a value."""
        return RankTimeline(self.rank, tuple(self.events))
