"""Routes of states in words: the steps of one, and which one a plan takes and why. No torch."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ringattn.planner.states import RouteCandidate
from ringattn.report.comparison_summary import mebibytes
from ringattn.report.table import table
from ringattn.schedule.states import Advance, Carried, Carry, Join, StateRoute, StateSizes, Transition

_WIDTH = 118

_LEFT = ("computes", "sends", "receives")

_WORDS = {
    Transition.SCALAR: "a decay of each head",
    Transition.DIAGONAL: "a decay of each row",
    Transition.DENSE: "a matrix of each head",
}


def transition_words(transition: Transition) -> str:
    """What a stretch does to a state, in words."""
    return _WORDS[transition]


def describe_route(route: StateRoute) -> str:
    """The table of its steps, a row for each rank that does something: stretches are numbered in the order in which the
    state passes them."""
    rows = []
    for index, step in enumerate(route.steps):
        first = str(index)
        for rank in range(route.world):
            done = [_done(route, task) for task in step.tasks if task.rank == rank]
            sends = [f"{_what(route, move)} to {move.target}" for move in step.moves if move.source == rank]
            receives = [f"{_what(route, move)} from {move.source}" for move in step.moves if move.target == rank]
            if done or sends or receives:
                rows.append([first, str(rank), *(", ".join(cell) or "-" for cell in (done, sends, receives))])
                first = ""
    return table(["step", "rank", *_LEFT], rows, left=_LEFT)


def _done(route: StateRoute, task: Advance | Join) -> str:
    """`state 2 past 2`, or `joins 1-2 and 3-4`."""
    if isinstance(task, Join):
        return f"joins {_span(task.stretch, task.middle - 1)} and {_span(task.middle, task.last)}"
    return f"state {_sliced(route, task)} past {_span(task.stretch, task.last)}"


def _what(route: StateRoute, move: Carry) -> str:
    if move.kind is Carried.EFFECT:
        return f"effect {_span(move.stretch, move.last)}"
    return f"state {_sliced(route, move)}"


def _sliced(route: StateRoute, item: Advance | Carry) -> str:
    """`2`, or with several slices `2.1`: what enters stretch 2, slice 1."""
    return f"{item.stretch}.{item.slice}" if route.slices > 1 else str(item.stretch)


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def routes_text(mixer: str, sizes: StateSizes, ranks: int, layout: str, found: Sequence[RouteCandidate]) -> str:
    """One layer's routes, the best first, and the reasons."""
    title = (
        f"One {mixer} layer's states: {sizes.heads:,} heads of {sizes.key_dim:,} x {sizes.value_dim:,} in "
        f"{8 * sizes.item_bytes} bits, and {transition_words(sizes.transition)} as transition"
    )
    if ranks == 1:
        return f"{title}. One rank holds a sequence: nothing travels."
    rows = [
        [
            made.route,
            f"{1e3 * made.forward:,.3f}",
            f"{1e3 * made.backward:,.3f}",
            str(made.steps),
            mebibytes(made.sent),
            mebibytes(made.received),
            f"{1e3 * made.wire:,.3f}",
            made.lane or "-",
        ]
        for made in found
    ]
    head = ["route", "forward ms", "backward ms", "steps", "MiB sent", "MiB held", "busiest link ms", "that link"]
    shown = table(head, rows, left=["route", "that link"])
    reasons = [textwrap.fill(line, _WIDTH, subsequent_indent="  ") for line in routes_reasons(sizes, found)]
    return "\n".join([f"{title} ({ranks} ranks, {layout}):", shown, *reasons])


def routes_fields(mixer: str, sizes: StateSizes, found: Sequence[RouteCandidate]) -> dict[str, Any]:
    """The same as plain data."""
    return {"mixer": mixer, "state": asdict(sizes), "routes": [asdict(made) for made in found]}


def routes_reasons(sizes: StateSizes, found: Sequence[RouteCandidate]) -> list[str]:
    """Why the first of `found`, in sentences that its figures bear out."""
    best = found[0]
    state, transition = sizes.state_bytes(), sizes.transition_bytes()
    steps = "all travel in one exchange" if best.steps == 1 else f"{best.steps} exchanges follow one another"
    lines = [
        f"{best.route}: a state has {_size(state)} and a transition {_size(transition)}, whatever the length; {steps}, "
        f"and a rank sends up to {_size(best.sent)} and holds {_size(best.received)} of others."
    ]
    for made in found[1:]:
        if made.route in ("allgather", "ring"):
            ratio = made.seconds / best.seconds
            lines.append(f"{made.route} takes {ratio:.2f} times as long: {_why(made, best)}.")
    slices = [made for made in found if made.route.startswith("pipeline")]
    if slices and slices[0] is not best:
        made = slices[0]
        ratio = made.seconds / best.seconds
        lines.append(f"{made.route}, the best pipeline, takes {ratio:.2f} times as long: {_why(made, best)}.")
    return lines


def _why(made: RouteCandidate, best: RouteCandidate) -> str:
    if made.wire > best.wire and made.steps <= best.steps:
        return f"its busiest link, {made.lane}, takes {1e3 * made.wire:,.3f} ms instead of {1e3 * best.wire:,.3f}"
    if made.steps > best.steps:
        return f"{made.steps} exchanges follow one another instead of {best.steps}, each with its start"
    return f"each of its {made.steps} exchanges carries the whole state, and the other ranks wait meanwhile"


def _size(count: int) -> str:
    return (
        f"{count:,} B"
        if count < 2**10
        else f"{count / 2**10:,.1f} KiB"
        if count < 2**20
        else f"{count / 2**20:,.1f} MiB"
    )
