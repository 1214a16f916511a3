"""What was found of a model, as plain values, and means over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from study.effort import Point


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of recall or a needle. place: the number of pairs, or the depth. score: the mean share of right
    answers. standard_error: of that mean, from how samples differ; None for one sample. loss: in nats an answer."""

    task: str
    place: float
    length: int
    samples: int
    score: float
    standard_error: float | None
    loss: float


@dataclass(frozen=True, kw_only=True)
class Found:
    """A trained point. text_loss: nats a byte, of held-out text; None without text. seconds: of training and tests."""

    point: Point
    kinds: tuple[str, ...]
    parameters: int
    figures: tuple[Figure, ...]
    text_loss: float | None
    text_error: float | None
    seconds: float

    @property
    def full_layers(self) -> int:
        return self.kinds.count("full")

    def score(self, task: str, where: Callable[[Figure], bool] = lambda figure: True) -> float | None:
        """Mean over the figures of a task; None where there are none."""
        scores = [figure.score for figure in self.figures if figure.task == task and where(figure)]
        return sum(scores) / len(scores) if scores else None

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Found:
        return cls(
            **{
                **plain,
                "point": Point(**plain["point"]),
                "kinds": tuple(plain["kinds"]),
                "figures": tuple(Figure(**figure) for figure in plain["figures"]),
            }
        )


def mean(values: Sequence[float | None]) -> float | None:
    """Of those that there are."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
