"""A study's folder: study.json, what was asked for, and points/NAME.json, what was found of each point."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from study.effort import Effort, Point
from study.figures import Found


@dataclass(frozen=True, kw_only=True)
class Run:
    """points: all that were asked for in this folder. date: ISO 8601, of the last start. hardware: in words."""

    folder: Path
    effort: Effort
    points: tuple[Point, ...]
    date: str
    hardware: str

    @classmethod
    def begin(cls, folder: Path, effort: Effort, points: Sequence[Point], hardware: str) -> Run:
        """A run of these points, and of those that the folder already has.

        Raises:
            ValueError: the folder's points are of another size.
        """
        before: tuple[Point, ...] = ()
        if (folder / "study.json").exists():
            earlier = read_run(folder)
            if different := effort.differences(earlier.effort):
                raise ValueError(
                    f"{folder} holds a study of another size: this one has {'; '.join(different)}: choose another "
                    "--out, or the same size to fill it up"
                )
            before = earlier.points
        everything = tuple(dict.fromkeys((*before, *points)))
        today = datetime.date.today().isoformat()
        run = cls(folder=folder, effort=effort, points=everything, date=today, hardware=hardware)
        (folder / "points").mkdir(parents=True, exist_ok=True)
        run.write()
        return run

    def write(self) -> None:
        plain = {
            "date": self.date,
            "hardware": self.hardware,
            "effort": self.effort.plain(),
            "points": [{"mixer": point.mixer, "ratio": point.ratio} for point in self.points],
        }
        (self.folder / "study.json").write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")

    def file(self, point: Point) -> Path:
        return self.folder / "points" / f"{point.name}.json"

    def left(self) -> tuple[Point, ...]:
        """Those of which nothing was found yet."""
        return tuple(point for point in self.points if not self.file(point).exists())

    def found(self) -> tuple[Found, ...]:
        """Of every point that was finished, in the order of the points."""
        done = [self.file(point) for point in self.points if self.file(point).exists()]
        return tuple(Found.of(_read(path)) for path in done)

    def only(self, points: Sequence[Point]) -> Run:
        return replace(self, points=tuple(points))


def read_run(folder: Path) -> Run:
    """The study of a folder. ValueError where it holds none."""
    path = folder / "study.json"
    if not path.exists():
        raise ValueError(f"{folder} holds no study, for there is no study.json: give the --out of an earlier one")
    plain = _read(path)
    return Run(
        folder=folder,
        effort=Effort.of(plain["effort"]),
        points=tuple(Point(point["mixer"], point["ratio"]) for point in plain["points"]),
        date=plain["date"],
        hardware=plain["hardware"],
    )


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON ({error}): delete it, and what it held is made again") from None
