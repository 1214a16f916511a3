"""What `ringattn compare` found, as plain data: read by the table, the JSON lines, the page, the PNG and the trace."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

from ringattn.planner.timeline import RankTimeline


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What was compared, and on what.

    ranks: the number of them. hosts: the host's name of each rank. length: tokens over all ranks. mask: in words.
    dtype: of q, k, v. layout: the name. cluster: the name of the described cluster behind the predictions, if any.
    hardware, versions: names and values in words (`processor`, `cores`, `torch`, ...). commit: of the code, with
    `+changes` where the tree was not clean. command: that which made this. started: ISO 8601, UTC.
    """

    ranks: int
    hosts: tuple[str, ...]
    length: int
    batch: int
    query_heads: int
    key_heads: int
    head_dim: int
    dtype: str
    mask: str
    layout: str
    repeats: int
    cluster: str | None
    hardware: Mapping[str, str]
    versions: Mapping[str, str]
    commit: str
    command: str
    started: str


@dataclass(frozen=True, kw_only=True)
class LinkLoad:
    """One direction of one link. bytes: that the schedule puts on it. seconds: bytes over its bandwidth."""

    name: str
    bytes: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Pass:
    """The forward or the backward of one schedule. Times in seconds.

    repeats: for each repeat the time of each rank, [repeats][ranks]; a repeat takes as long as its slowest rank.
    sent, received: bytes of each rank. up, down: bytes that each rank sends to higher and to lower ranks.
    compute_bound: the longest time that any rank computes, with no communication. wire_bound: of the busiest link,
    bytes over bandwidth; None where no cluster is described. exposed: for each rank, time in which it waits for
    messages and computes nothing. timeline: measured, one repeat, all ranks from one start of time. links: by load,
    heaviest first. predicted, predicted_timeline: by the simulator; None and empty where no cluster is described.
    """

    repeats: tuple[tuple[float, ...], ...]
    sent: tuple[int, ...]
    received: tuple[int, ...]
    up: tuple[int, ...]
    down: tuple[int, ...]
    compute_bound: float
    wire_bound: float | None
    exposed: tuple[float, ...]
    timeline: tuple[RankTimeline, ...]
    links: tuple[LinkLoad, ...] = ()
    predicted: float | None = None
    predicted_exposed: tuple[float, ...] = ()
    predicted_timeline: tuple[RankTimeline, ...] = ()

    @property
    def seconds(self) -> float:
        """The median over repeats of the slowest rank's time."""
        return median(max(ranks) for ranks in self.repeats)

    @property
    def spread(self) -> tuple[float, float]:
        """The fastest and the slowest repeat."""
        each = [max(ranks) for ranks in self.repeats]
        return min(each), max(each)

    @property
    def by_rank(self) -> tuple[float, ...]:
        """The median over repeats of each rank's time."""
        return tuple(median(times) for times in zip(*self.repeats))

    @property
    def bound(self) -> float:
        """No schedule of this assignment can be faster: the larger of the two bounds."""
        return max(self.compute_bound, self.wire_bound or 0.0)

    @property
    def bound_by(self) -> str:
        """Which bound is the larger: `compute` or `wire`."""
        return "wire" if (self.wire_bound or 0.0) > self.compute_bound else "compute"

    @property
    def achieved(self) -> float:
        """The bound over the time: 1 where nothing is left to gain."""
        return self.bound / self.seconds

    @property
    def prediction_error(self) -> float | None:
        """Predicted over measured time, less 1: -0.1 where the prediction was 10% too fast."""
        return None if self.predicted is None else self.predicted / self.seconds - 1


@dataclass(frozen=True, kw_only=True)
class Result:
    """One schedule. error: the largest error of any rank against fp64, relative to the largest value, by tensor
    (`out`, `dq`, `dk`, `dv`); empty where it was not asked for. peak_buffer_bytes: of messages, by rank.
    peak_memory_bytes: of all tensors of the call, by rank. skipped: why it was not run, in words; then there are no
    passes."""

    schedule: str
    forward: Pass | None = None
    backward: Pass | None = None
    error: Mapping[str, float] = field(default_factory=dict)
    peak_buffer_bytes: tuple[int, ...] = ()
    peak_memory_bytes: tuple[int, ...] = ()
    skipped: str | None = None

    @property
    def passes(self) -> dict[str, Pass]:
        """Those that were run, by name: `forward` first."""
        both = {"forward": self.forward, "backward": self.backward}
        return {name: run for name, run in both.items() if run is not None}

    @property
    def worst_error(self) -> tuple[str, float] | None:
        """The tensor with the largest error, and that error. A value that is no number is the worst."""
        if not self.error:
            return None
        return max(self.error.items(), key=lambda item: math.inf if math.isnan(item[1]) else item[1])


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All schedules on one input, in the order in which they were named."""

    setup: Setup
    results: tuple[Result, ...]

    def fastest(self, direction: str) -> Result | None:
        """The schedule with the shortest `forward` or `backward`; None where none has one."""
        ran = [result for result in self.results if direction in result.passes]
        return min(ran, key=lambda result: result.passes[direction].seconds, default=None)
