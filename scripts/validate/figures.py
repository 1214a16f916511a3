"""Figures of single schedules, and what they say together: errors, picks, distance from the bound, gains.

Pure: no files, no clock.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ringattn.planner.ties import Merit, settled

# What the tables are held against.
TARGETS = {
    "error, median": 0.10,
    "error, 90th percentile": 0.20,
    "pick over best": 1.05,
    "over wire bound": 1.15,
    "tokenring over ring, forward": 0.65,
    "tokenring over ring, backward": 0.50,
}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One direction of one schedule in one case. Seconds; measured: the median of repeats. wire_bound: bytes over
    bandwidth of the busiest link, which so many `connections` share. computed: by the slowest rank, predicted."""

    case: str
    schedule: str
    direction: str
    measured: float
    fastest: float
    predicted: float
    wire_bound: float
    computed: float = 0.0
    connections: int = 0

    @property
    def error(self) -> float:
        """Predicted over measured, less 1: -0.1 where the prediction was 10 % too fast."""
        return self.predicted / self.measured - 1

    @property
    def over_bound(self) -> float:
        return self.measured / self.wire_bound if self.wire_bound else math.inf


@dataclass(frozen=True)
class Pick:
    """Of one case and direction: the schedule that the planner takes by what is predicted, the one that is the fastest,
    and how much longer the first takes, measured."""

    case: str
    direction: str
    picked: str
    best: str
    over_best: float


@dataclass(frozen=True)
class Bound:
    """Of one schedule in one direction, over all cases: measured over wire bound, and predicted over wire bound."""

    schedule: str
    direction: str
    median: float
    worst: float
    worst_case: str
    predicted_median: float
    predicted_worst: float


@dataclass(frozen=True)
class Gain:
    """The time of `schedule`, a TokenRing, over ring's in one case and direction, measured and predicted."""

    case: str
    schedule: str
    direction: str
    measured: float
    predicted: float


@dataclass(frozen=True)
class Summary:
    """Everything that the tables show. errors: without sign, of all figures."""

    count: int
    error_median: float
    error_p90: float
    bias: float
    by_schedule: dict[str, float]
    worst: tuple[Figure, ...]
    picks: tuple[Pick, ...]
    bounds: tuple[Bound, ...]
    gains: tuple[Gain, ...]
    figures: tuple[Figure, ...]

    @property
    def worst_pick(self) -> float:
        return max(pick.over_best for pick in self.picks)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {"targets": TARGETS, "worst_pick": self.worst_pick, **asdict(self)}


def summarize(figures: Sequence[Figure], *, worst: int = 10) -> Summary:
    """ValueError where there are no figures."""
    if not figures:
        raise ValueError("nothing was measured: no case has a report")
    errors = [abs(figure.error) for figure in figures]
    return Summary(
        count=len(figures),
        error_median=statistics.median(errors),
        error_p90=percentile(errors, 0.9),
        bias=statistics.median(figure.error for figure in figures),
        by_schedule={
            " ".join(key): statistics.median(abs(figure.error) for figure in group)
            for key, group in grouped(figures, lambda f: (f.schedule, f.direction)).items()
        },
        worst=tuple(sorted(figures, key=lambda figure: -abs(figure.error))[:worst]),
        picks=tuple(_pick(*key, group) for key, group in grouped(figures, lambda f: (f.case, f.direction)).items()),
        bounds=tuple(_bound(*k, group) for k, group in grouped(figures, lambda f: (f.schedule, f.direction)).items()),
        gains=_gains(figures),
        figures=tuple(figures),
    )


def grouped(figures: Sequence[Figure], key: Callable[[Figure], tuple[str, ...]]) -> dict[tuple[str, ...], list[Figure]]:
    """In the order in which keys come first."""
    found: defaultdict[tuple[str, ...], list[Figure]] = defaultdict(list)
    for figure in figures:
        found[key(figure)].append(figure)
    return dict(found)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least `share` of them do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _pick(case: str, direction: str, figures: Sequence[Figure]) -> Pick:
    picked, *_ = settled(
        sorted(figures, key=lambda figure: figure.predicted),
        lambda f: Merit(f.predicted, f.computed, f.wire_bound, f.connections, "slices=" in f.schedule),
    )
    best = min(figures, key=lambda figure: figure.measured)
    return Pick(case, direction, picked.schedule, best.schedule, picked.measured / best.measured)


def _bound(schedule: str, direction: str, figures: Sequence[Figure]) -> Bound:
    worst = max(figures, key=lambda figure: figure.over_bound)
    predicted = [figure.predicted / figure.wire_bound for figure in figures if figure.wire_bound]
    middle = statistics.median(figure.over_bound for figure in figures)
    return Bound(
        schedule, direction, middle, worst.over_bound, worst.case, statistics.median(predicted), max(predicted)
    )


def _gains(figures: Sequence[Figure]) -> tuple[Gain, ...]:
    found = []
    for (case, direction), group in grouped(figures, lambda f: (f.case, f.direction)).items():
        by_name = {figure.schedule: figure for figure in group}
        for name in ("tokenring", "tokenring:back=1"):
            if {name, "ring"} <= set(by_name):
                fast, slow = by_name[name], by_name["ring"]
                gain = fast.measured / slow.measured, fast.predicted / slow.predicted
                found.append(Gain(case, name, direction, *gain))
    return tuple(found)
