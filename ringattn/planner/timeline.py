"""What a rank did and when, measured or predicted: one record for both, so that they can be laid side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Event(NamedTuple):
    """One span of time of one rank.

    kind: `compute` (a task), `merge` (results that arrived are added), `post` (messages are packed and handed over),
        `send` and `receive` (a message under way), `wait` (nothing to do until a message is there).
    direction: `forward` or `backward`. step: of the schedule. start, stop: seconds since the timeline began.
    peer: the other rank of a message. bytes: of messages; 0 for computation.
    """

    kind: str
    direction: str
    step: int
    start: float
    stop: float
    peer: int | None = None
    bytes: int = 0


@dataclass(frozen=True)
class RankTimeline:
    """The events of one rank, in the order in which they ended."""

    rank: int
    events: tuple[Event, ...]

    def seconds(self, kind: str) -> float:
        """The time that events of `kind` took together."""
        return sum(event.stop - event.start for event in self.events if event.kind == kind)
