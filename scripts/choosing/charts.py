"""Two kinds of charts out of the shapes of `ringattn.report.svg`: lines over powers of two, and bars in groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ringattn.report.svg import color, number, rectangle, text

Points = Sequence[tuple[float, float]]

# Schedules keep their color and their mark from picture to picture.
_STYLES = ("ring", "allgather", "biring", "ulysses", "tokenring", "usp", "tile", "doublering")

_LEFT, _TOP, _BOTTOM = 44.0, 34.0, 40.0
_GRID = 'class="grid"'

# The page's style sheet has no line of a grid, nor one of ink.
EXTRA_STYLE = (
    "<style>.grid { stroke: #d6dbe1; fill: none; } .inkline { stroke: #1b1f24; fill: none; } "
    "@media (prefers-color-scheme: dark) { .grid { stroke: #30363d; } .inkline { stroke: #e6edf3; } }</style>"
)


def style_of(name: str) -> int | None:
    """The number of a schedule's color and mark; None for what is drawn in ink."""
    family = name.partition(":")[0].partition(" ")[0]
    return _STYLES.index(family) if family in _STYLES else None


@dataclass(frozen=True)
class Series:
    """points: (x, y). dashed: for a bound, without marks. like: whose color it has; its own unless given."""

    name: str
    points: Points
    dashed: bool = False
    like: str | None = None

    @property
    def style(self) -> int | None:
        return style_of(self.name if self.like is None else self.like)


@dataclass(frozen=True)
class Axis:
    """ticks: (value, label); the first and the last are its ends."""

    ticks: Sequence[tuple[float, str]]
    logarithmic: bool = True

    def place(self, value: float) -> float:
        """From 0 at the first tick to 1 at the last, and never beyond."""
        low, high = self.ticks[0][0], self.ticks[-1][0]
        value = min(max(value, low), high)
        if self.logarithmic:
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)


def lines(
    x: float,
    y: float,
    width: float,
    height: float,
    *,
    title: str,
    across: Axis,
    up: Axis,
    label: str,
    series: Sequence[Series],
) -> list[str]:
    """A panel of lines with its own axes. label: what runs across."""
    left, top = x + _LEFT, y + _TOP
    wide, high = width - _LEFT - 10, height - _TOP - _BOTTOM
    parts = [text(left, y + 16, title, style="ink")]
    for value, word in up.ticks:
        at = top + high * (1 - up.place(value))
        parts.append(_line([(left, at), (left + wide, at)], _GRID, 1))
        parts.append(text(left - 6, at + 4, word, style="faint small", anchor="end"))
    for value, word in across.ticks:
        at = left + wide * across.place(value)
        parts.append(text(at, top + high + 16, word, style="faint small", anchor="middle"))
    parts.append(text(left + wide / 2, top + high + 32, label, style="faint small", anchor="middle"))
    for one in series:
        places = [(left + wide * across.place(a), top + high * (1 - up.place(b))) for a, b in one.points]
        parts += _drawn(one.style, places, dashed=one.dashed)
    return parts


def bars(
    x: float, y: float, width: float, *, title: str, rows: Sequence[tuple[str, float, str]], most: float
) -> list[str]:
    """Horizontal bars: (name, value, words at its end). most: the value of a bar as wide as there is room."""
    parts = [text(x, y + 16, title)]
    room = width - 92 - 52
    for row, (name, value, words) in enumerate(rows):
        at = y + 28 + 22 * row
        style = style_of(name)
        parts.append(text(x + 86, at + 12, name, style="faint", anchor="end"))
        fill = None if style is None else color(style)
        parts.append(rectangle(x + 92, at, room * min(value / most, 1), 16, fill=fill, style="faint", corner=2))
        parts.append(text(x + 92 + room * min(value / most, 1) + 6, at + 12, words))
    return parts


def legend(x: float, y: float, series: Sequence[Series], *, gap: float = 62) -> list[str]:
    """Names beside a piece of their lines. gap: room around a name of no letters."""
    parts = []
    for one in series:
        parts += _drawn(one.style, [(x, y), (x + 14, y), (x + 28, y)], dashed=one.dashed, marks=slice(1, 2))
        parts.append(text(x + 34, y + 4, one.name))
        x += gap + 6.4 * len(one.name)
    return parts


def _drawn(style: int | None, places: Points, *, dashed: bool, marks: slice = slice(None)) -> list[str]:
    paint = 'class="inkline"' if style is None else f'fill="none" stroke="{color(style)}"'
    parts = [_line(places, paint, 1.6 if dashed else 2.2, dashed=dashed)] if len(places) > 1 else []
    if dashed:
        return parts
    return parts + [_mark(style, *place) for place in places[marks]]


def _line(places: Points, paint: str, width: float, *, dashed: bool = False) -> str:
    path = "M" + " L".join(f"{number(a)} {number(b)}" for a, b in places)
    dash = ' stroke-dasharray="6 4"' if dashed else ""
    return f'<path d="{path}" {paint} stroke-width="{number(width)}"{dash}/>'


def _mark(style: int | None, x: float, y: float) -> str:
    """One shape for each color: lines that cross are told apart without them."""
    paint = 'class="ink"' if style is None else f'fill="{color(style)}"'
    if not style:
        return f'<circle cx="{number(x)}" cy="{number(y)}" r="3.8" {paint}/>'
    places = " ".join(f"{number(x + a)},{number(y + b)}" for a, b in _CORNERS[style - 1])
    return f'<polygon points="{places}" {paint}/>'


# A square, triangles up and down, a diamond, bars across and upright, a hexagon.
_CORNERS = (
    ((-3.4, -3.4), (3.4, -3.4), (3.4, 3.4), (-3.4, 3.4)),
    ((0, -4.8), (4.4, 3.4), (-4.4, 3.4)),
    ((0, -5), (5, 0), (0, 5), (-5, 0)),
    ((0, 4.8), (4.4, -3.4), (-4.4, -3.4)),
    ((-6, -2.4), (6, -2.4), (6, 2.4), (-6, 2.4)),
    ((-2.4, -6), (2.4, -6), (2.4, 6), (-2.4, 6)),
    ((-4.6, 0), (-2.3, -4), (2.3, -4), (4.6, 0), (2.3, 4), (-2.3, 4)),
)
