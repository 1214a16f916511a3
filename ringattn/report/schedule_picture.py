"""A schedule as an SVG picture, drawn from the value alone: who computes which block, and what travels when.

On the left the blocks of attention, query chunks down and key chunks across, each in the color of the rank that
computes it with the number of the step. On the right time: a column a step, a row a rank; in each cell the
queries (left half) and the keys (right half) that the rank works on, in the colors of their owners, and between
the columns what travels meanwhile.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ringattn.report.schedule import moves_of, name_chunks, word_of
from ringattn.report.svg import arrow, color, page, rectangle, text
from ringattn.schedule.value import Kind, Schedule, Side, Task
from ringattn.sequence.layout import Layout

# More than this and cells, arrows and colors can no longer be told apart.
MOST_RANKS = 16

_MARGIN = 20.0
_LINE = 20.0  # height of one task
_GAP = 70.0  # between two columns of steps, where arrows run
_LANE_GAP = 18.0  # between two rows of ranks
_STRIPE = 9.0  # padding of a stripe beside its name
_LETTER = 7.0
_MAP = 208.0  # side of a lone map of blocks
_AXIS = 34.0

_WIDTHS = {(Kind.PARCEL, Side.QUERY): 1.5, (Kind.PARCEL, Side.KEY): 3.5}
_RESULT_WIDTH = 1.8


def draw(
    schedule: Schedule,
    *,
    backward: bool = False,
    subtitle: str = "",
    layout: Layout | None = None,
    visible: NDArray[np.bool_] | None = None,
) -> str:
    """The picture as SVG text.

    subtitle: a line under the title, such as the mask. layout: the order of the sequence, for the map of blocks;
        by owner unless given. visible: bool [query chunks, key chunks], the blocks that the map shows; all of each task
        unless given.
    """
    check_size(schedule)
    direction = "backward" if backward else "forward"
    title = f"{schedule.name}, {direction}, {schedule.world} rank{'s' * (schedule.world != 1)}"
    top = _MARGIN + 56
    maps, maps_width, maps_height = _maps(schedule, _MARGIN, top, layout, visible)
    timeline = _Timeline(schedule, backward, left=_MARGIN + maps_width + 44, top=top)
    lanes, width, bottom = timeline.draw()
    under = max(top + maps_height, bottom) + 30
    key, key_width = _legend(schedule, backward, _MARGIN, under)
    parts = [
        text(_MARGIN, _MARGIN + 12, title, style="ink title"),
        text(_MARGIN, _MARGIN + 30, subtitle, style="faint"),
        *maps,
        *lanes,
        *key,
    ]
    return page(max(width, key_width) + _MARGIN, under + 14 + _MARGIN, parts, title=title)


def draw_maps(named: Sequence[tuple[str, Schedule]], *, across: int = 4, layout: Layout | None = None) -> str:
    """Only the maps of blocks of several schedules over the same ranks, side by side."""
    width, height = _MAP + 2 * _AXIS, _MAP + _AXIS + 50
    parts: list[str] = []
    for index, (name, schedule) in enumerate(named):
        check_size(schedule)
        row, column = divmod(index, across)
        left, top = _MARGIN + column * width, _MARGIN + row * height
        parts.append(text(left + _AXIS, top + 10, name, style="ink title"))
        parts += _maps(schedule, left, top + 28, layout, caption=False)[0]
    rows = -(-len(named) // across)
    under = _MARGIN + rows * height + 4
    world = max(schedule.world for _, schedule in named)
    swatches, key_width = _swatches(world, "computed by rank", _MARGIN, under)
    hint = "queries down, keys across; the number is the step"
    parts += [*swatches, text(key_width + 24, under, hint, style="faint")]
    across = min(across, len(named))
    return page(2 * _MARGIN + across * width - _AXIS, under + _MARGIN, parts, title="Who computes which block")


def check_size(schedule: Schedule) -> None:
    """ValueError where there are too many ranks for a picture."""
    if schedule.world > MOST_RANKS:
        raise ValueError(
            f"a picture shows at most {MOST_RANKS} ranks, got {schedule.world}: draw fewer ranks, or read the table"
        )


# The map of blocks.

Blocks = dict[tuple[int, int], tuple[int, int]]  # (query, key) -> (rank, step)


def _maps(
    schedule: Schedule,
    left: float,
    top: float,
    layout: Layout | None,
    visible: NDArray[np.bool_] | None = None,
    *,
    side: float = _MAP,
    caption: bool = True,
) -> tuple[list[str], float, float]:
    """The maps of all head groups that have any; also their width and height."""
    groups = [group for group, (start, stop) in enumerate(schedule.heads) if stop > start]
    across = 1 if len(groups) == 1 else 2
    if len(groups) > 4:
        across = 4
    rows = -(-len(groups) // across)
    each = side if len(groups) == 1 else (side - 18 * (across - 1)) / across
    parts: list[str] = []
    if caption:
        parts.append(text(left + _AXIS, top - 8, "who computes each block; number: step", style="faint small"))
    for index, group in enumerate(groups):
        row, column = divmod(index, across)
        x, y = left + _AXIS + column * (each + 18), top + 14 + row * (each + 32)
        name = ""
        if len(groups) > 1:
            start, stop = schedule.heads[group]
            name = f"head {start}" if stop == start + 1 else f"heads {start}-{stop - 1}"
        parts += _one_map(
            schedule, _blocks(schedule, group, visible), x, y, each, layout, axes=len(groups) == 1, name=name
        )
    return parts, _AXIS + side, 14 + rows * (each + 32) - 18


def _blocks(schedule: Schedule, group: int, visible: NDArray[np.bool_] | None) -> Blocks:
    """Which rank computes what of a head group, and when."""
    blocks: Blocks = {}
    for index, step in enumerate(schedule.steps):
        for task in step.tasks:
            if task.heads == group:
                of_task = ((q, k) for q in task.queries for k in task.keys)
                blocks.update({block: (task.rank, index) for block in of_task if visible is None or visible[block]})
    return blocks


def _one_map(
    schedule: Schedule, blocks: Blocks, x: float, y: float, side: float, layout: Layout | None, *, axes: bool, name: str
) -> list[str]:
    order = list(range(schedule.chunks))
    if layout is not None:
        # The layout's chunks may be coarser than the schedule's, which cuts each of them further.
        chunks = layout.refine(schedule.chunks_per_rank // layout.chunks_per_rank).chunks
        order = sorted((c for c in order if len(chunks[c])), key=lambda c: chunks[c][0])
    names = [name_chunks(schedule, [chunk])[0][1] for chunk in order]
    coarse = _by_owner(schedule, blocks) if layout is None else None
    if coarse is not None:
        blocks, order, names = coarse, list(range(schedule.world)), [str(rank) for rank in range(schedule.world)]
    cell = side / len(order)
    gap = 1 if cell >= 8 else 0
    parts = [rectangle(x, y, side, side, style="idle")]
    for row, q in enumerate(order):
        for column, k in enumerate(order):
            if (q, k) in blocks:
                rank, at_step = blocks[q, k]
                left, top = x + column * cell, y + row * cell
                parts.append(rectangle(left + gap / 2, top + gap / 2, cell - gap, cell - gap, fill=color(rank)))
                if cell >= 13:
                    size = min(12.0, cell * 0.55)
                    middle, base = left + cell / 2, top + cell / 2 + size * 0.36
                    parts.append(text(middle, base, str(at_step), style="on", anchor="middle", size=size))
    if name:
        parts.append(text(x, y - 4, name, style="faint small"))
    if axes:
        parts += _axes(names, x, y, cell)
    return parts


def _axes(names: list[str], x: float, y: float, cell: float) -> list[str]:
    every = max(1, math.ceil((_LETTER * max(map(len, names)) + 4) / cell))
    parts = []
    for index, name in enumerate(names):
        if index % every == 0:
            middle = (index + 0.5) * cell
            across, down = (f"k{name}", f"q{name}") if cell >= 24 else (name, name)
            parts.append(text(x + middle, y - 4, across, style="faint small", anchor="middle"))
            parts.append(text(x - 5, y + middle + 4, down, style="faint small", anchor="end"))
    return parts


def _by_owner(schedule: Schedule, blocks: Blocks) -> Blocks | None:
    """Blocks of whole ranks, where all chunks of two ranks meet on one rank in one step; None where some do not."""
    each, coarse = schedule.chunks_per_rank, {}
    for q in range(schedule.world):
        for k in range(schedule.world):
            held = {blocks.get((q * each + i, k * each + j)) for i in range(each) for j in range(each)}
            if len(held) > 1:
                return None
            block = held.pop()
            if block is not None:
                coarse[q, k] = block
    return coarse


# Time.


@dataclass(frozen=True)
class _Port:
    """One end of an arrow: the rank's cell in a column, `column` = number of steps for the ranks' own results."""

    column: int
    rank: int
    leaves: bool


class _Timeline:
    """A column a step, a row a rank, arrows between."""

    def __init__(self, schedule: Schedule, backward: bool, *, left: float, top: float) -> None:
        self.schedule = schedule
        self.backward = backward
        # Steps at the end that only the other direction needs are left out.
        lasting = [i for i, step in enumerate(schedule.steps) if step.tasks]
        lasting += [m.due for step in schedule.steps for m in moves_of(step, backward=backward)]
        self.steps = max(lasting, default=-1) + 1
        self.tasks: defaultdict[tuple[int, int], list[Task]] = defaultdict(list)
        for index, step in enumerate(schedule.steps):
            for task in step.tasks:
                self.tasks[index, task.rank].append(task)
        self.half = max([24.0, *(self._half(task) for of in self.tasks.values() for task in of)])
        lines = max([1, *map(len, self.tasks.values())])
        self.cell = (2 * self.half + 2, max(32.0, lines * (_LINE + 2)))
        self.left, self.top = left + 46, top + 24

    def _half(self, task: Task) -> float:
        """The width that the names in the wider half of a task need."""
        halves = [[name for _, name in self._short(of)] for of in (task.queries, task.keys)]
        return max(len(names) * (_STRIPE + _LETTER * max(map(len, names))) for names in halves)

    def _short(self, chunks: tuple[int, ...]) -> list[tuple[int, str]]:
        """Owners and names; a rank of which there are many chunks, but not all, is `2..`: the table has them all."""
        longest = len(str(self.schedule.world)) + 2
        named = name_chunks(self.schedule, chunks)
        return [(owner, name if len(name) <= longest else f"{owner}..") for owner, name in named]

    def draw(self) -> tuple[list[str], float, float]:
        """The parts, and how far they reach to the right and down."""
        width, height = self.cell
        parts = []
        for step in range(self.steps):
            parts.append(text(self.x(step) + width / 2, self.top - 20, f"step {step}", style="faint", anchor="middle"))
        results = "dq, dk, dv" if self.backward else "out"
        parts.append(text(self.x(self.steps) + 17, self.top - 20, results, style="faint", anchor="middle"))
        parts += self._arrows()
        for rank in range(self.schedule.world):
            y = self.y(rank)
            parts.append(text(self.left - 10, y + height / 2 + 4, f"rank {rank}", anchor="end"))
            for step in range(self.steps):
                parts += self._cell(step, rank)
            parts.append(rectangle(self.x(self.steps), y, 34, height, fill=color(rank), corner=4))
            parts.append(text(self.x(self.steps) + 17, y + height / 2 + 4, str(rank), style="on", anchor="middle"))
        return parts, self.x(self.steps) + 44, self.y(self.schedule.world) - _LANE_GAP

    def x(self, column: int) -> float:
        return self.left + column * (self.cell[0] + _GAP)

    def y(self, rank: int) -> float:
        return self.top + rank * (self.cell[1] + _LANE_GAP)

    def _cell(self, step: int, rank: int) -> list[str]:
        x, y = self.x(step), self.y(rank)
        width, height = self.cell
        tasks = self.tasks[step, rank]
        if not tasks:
            return [rectangle(x, y, width, height, style="idle", corner=4)]
        parts = []
        each = height / len(tasks)
        for line, task in enumerate(tasks):
            top = y + line * each
            for chunks, left in ((task.queries, x), (task.keys, x + self.half + 2)):
                parts += self._stripes(chunks, left, top, each - (2 if line + 1 < len(tasks) else 0))
        return parts

    def _stripes(self, chunks: tuple[int, ...], x: float, y: float, height: float) -> list[str]:
        named = self._short(chunks)
        width = self.half / len(named)
        parts = []
        for index, (owner, name) in enumerate(named):
            left = x + index * width
            parts.append(rectangle(left, y, width - (index + 1 < len(named)), height, fill=color(owner)))
            parts.append(text(left + width / 2, y + height / 2 + 4, name, style="on", anchor="middle"))
        return parts

    def _arrows(self) -> list[str]:
        """One arrow for all that goes from one rank to another, of one kind and side, in the same steps."""
        messages: defaultdict[tuple[int, int, int, int, Kind, Side], set[int]] = defaultdict(set)
        for index, step in enumerate(self.schedule.steps):
            for move in moves_of(step, backward=self.backward):
                owners = {self.schedule.owner(chunk) for chunk in move.chunks}
                messages[index, move.due, move.source, move.target, move.kind, move.side] |= owners
        # The ends at one cell stand in the order of the cells at the other side, so that arrows cross less.
        ends: defaultdict[_Port, list[tuple[int, int]]] = defaultdict(list)
        for number, (index, due, source, target, _, _) in enumerate(messages):
            ends[_Port(index, source, True)].append((target, number))
            ends[_Port(due + 1, target, False)].append((source, number))
        place = {
            (port, number): (order + 1) / (len(others) + 1)
            for port, others in ends.items()
            for order, (_, number) in enumerate(sorted(others))
        }
        parts = []
        for number, ((index, due, source, target, kind, side), owners) in enumerate(messages.items()):
            start, end = _Port(index, source, True), _Port(due + 1, target, False)
            y0 = self.y(source) + self.cell[1] * place[start, number]
            y1 = self.y(target) + self.cell[1] * place[end, number]
            points = [(self.x(index) + self.cell[0] + 3, y0), (self.x(due + 1) - 3, y1)]
            if due > index:
                # A transfer over several steps runs between the rows, past the cells of the steps that it spans.
                channel = self.y(target) + (self.cell[1] + _LANE_GAP / 2 if source < target else -_LANE_GAP / 2)
                points[1:1] = [(self.x(index + 1) - 8, channel), (self.x(due) + self.cell[0] + 8, channel)]
            parts.append(
                arrow(
                    points,
                    stroke=color(next(iter(owners))) if len(owners) == 1 else None,
                    width=_WIDTHS.get((kind, side), _RESULT_WIDTH),
                    dashed=kind is Kind.PARTIAL,
                )
            )
        return parts


# The legend.


def _legend(schedule: Schedule, backward: bool, x: float, y: float) -> tuple[list[str], float]:
    """Colors, then the kinds of arrows that this picture has; also how far it reaches to the right."""
    parts, x = _swatches(schedule.world, "owner", x, y)
    kinds = {(m.kind, m.side) for step in schedule.steps for m in moves_of(step, backward=backward)}
    words = {
        (Kind.PARCEL, Side.QUERY): "q, dout, lse, delta travel" if backward else "q travels",
        (Kind.PARCEL, Side.KEY): "k, v travel",
    }
    results = sorted(word_of(*kind, backward=backward) for kind in kinds if kind[0] is Kind.PARTIAL)
    entries = [(word, _WIDTHS[kind], False) for kind, word in words.items() if kind in kinds]
    if results:
        names = {"out": "out, lse", "dkv": "dk, dv", "dq": "dq"}
        entries.append((", ".join(names[word] for word in results) + " on the way home", _RESULT_WIDTH, True))
    for word, width, dashed in entries:
        x += 24
        parts.append(arrow([(x, y - 4), (x + 34, y - 4)], stroke=None, width=width, dashed=dashed))
        parts.append(text(x + 42, y, word, style="faint"))
        x += 42 + 6.6 * len(word)
    x += 24
    hint = "cell: queries | keys; arrows: sent while the cell computes"
    parts.append(text(x, y, hint, style="faint"))
    return parts, x + 6.6 * len(hint)


def _swatches(world: int, label: str, x: float, y: float) -> tuple[list[str], float]:
    parts = [text(x, y, label, style="faint")]
    x += 6.6 * len(label) + 10
    for rank in range(world):
        parts.append(rectangle(x, y - 12, 20, 16, fill=color(rank), corner=3))
        parts.append(text(x + 10, y, str(rank), style="on", anchor="middle"))
        x += 24
    return parts, x
