"""A table of published and predicted figures, and how it is told."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Constant:
    """A number that goes into the predictions. text: with its unit. source: where it comes from, in words."""

    name: str
    text: str
    source: str


@dataclass(frozen=True)
class Row:
    """One figure. published, predicted: in the table's unit."""

    name: str
    published: float
    predicted: float


@dataclass(frozen=True)
class Table:
    """title: what was measured, where it was published. unit: of the figures. points: errors are differences of
    percentages, and not percent of the published figure. given: what is published and sets a constant, so that nothing
    is predicted by it."""

    title: str
    unit: str
    rows: tuple[Row, ...]
    constants: tuple[Constant, ...]
    given: tuple[str, ...] = ()
    points: bool = False

    def error(self, row: Row) -> float:
        """Predicted less published, in percent of the published or in points."""
        difference = row.predicted - row.published
        return difference if self.points else 100 * difference / row.published

    @property
    def mean(self) -> float:
        """Of the errors without their signs."""
        return sum(abs(self.error(row)) for row in self.rows) / len(self.rows)

    @property
    def worst(self) -> float:
        return max(abs(self.error(row)) for row in self.rows)

    def lines(self) -> list[str]:
        """For a terminal."""
        unit = "points" if self.points else "%"
        width = max(len(row.name) for row in self.rows)
        found = [self.title, f"  {'':{width}}  published  predicted  error, {unit}   ({self.unit})"]
        found += [
            f"  {row.name:{width}}  {row.published:9.4g}  {row.predicted:9.4g}  {self.error(row):+8.1f}"
            for row in self.rows
        ]
        found.append(f"  error without sign: mean {self.mean:.1f} {unit}, worst {self.worst:.1f} {unit}")
        notes = [f"given: {line}" for line in self.given]
        notes += [f"{constant.name} = {constant.text}: {constant.source}" for constant in self.constants]
        for note in notes:
            found += textwrap.wrap(note, 100, initial_indent="  ", subsequent_indent="    ")
        return found

    def values(self) -> dict[str, object]:
        """For a program."""
        return {
            "title": self.title,
            "unit": self.unit,
            "error_unit": "points" if self.points else "percent",
            "rows": [
                {"name": row.name, "published": row.published, "predicted": row.predicted, "error": self.error(row)}
                for row in self.rows
            ],
            "mean": self.mean,
            "worst": self.worst,
            "given": list(self.given),
            "constants": {constant.name: [constant.text, constant.source] for constant in self.constants},
        }


def told(tables: Sequence[Table]) -> str:
    """All tables, one behind the other."""
    return "\n\n".join("\n".join(table.lines()) for table in tables)
