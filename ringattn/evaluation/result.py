"""What an evaluation found, as plain values. No torch: results are read back without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ringattn.evaluation.perplexity import LengthReport


@dataclass(frozen=True, kw_only=True)
class Score:
    """One figure of passkey, ruler or recall: how many answers were right.

    score: the mean over samples of the fraction of answers that are right. standard_error: of that mean, from how
    samples differ; None for one. loss: mean of the answers' tokens in nats, which moves before answers get right.
    expected, written: of the first sample, in text. place: of the case on its axis (a depth, a number of pairs).
    """

    task: str
    name: str
    place: float
    length: int
    samples: int
    score: float
    standard_error: float | None
    loss: float
    expected: str
    written: str


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What was evaluated, on what and how. settings: all of them. notes: what a reader should know of the figures."""

    name: str
    command: str
    started: str
    seconds: float
    ranks: int
    hosts: tuple[str, ...]
    text: str | None
    settings: dict[str, Any]
    hardware: dict[str, str]
    versions: dict[str, str]
    commit: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Everything. harness: lm-evaluation-harness's own figures, by task and metric."""

    setup: Setup
    perplexity: tuple[LengthReport, ...] = ()
    scores: tuple[Score, ...] = ()
    harness: dict[str, dict[str, float]] | None = None

    def of(self, task: str) -> tuple[Score, ...]:
        """The scores of a task."""
        return tuple(score for score in self.scores if score.task == task)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Those with scores, in the order of the scores."""
        return tuple(dict.fromkeys(score.task for score in self.scores))
