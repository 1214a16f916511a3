"""Why a schedule was chosen, in sentences that a person can check against the figures. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from ringattn.planner.search import Candidate, Found
from ringattn.schedule import parse

# Named schedules that people ask about, each with what it is.
_ASKED = ("ring", "biring", "tokenring", "allgather", "ulysses")

_TRAVELS = {
    "one": "hop by hop, one way",
    "back": "hop by hop, one way but for the last",
    "apart": "hop by hop, one way but for the last",
    "both": "hop by hop, both ways",
    "direct": "straight from each owner",
    "levels": "over rings inside hosts and between them",
}


def reasons(found: Found, forward: Candidate, backward: Candidate, ranks: int) -> list[str]:
    """Sentences on the forward and the backward: what travels, how much of it is hidden, what bounds it, and how far
    the schedules that people ask about are behind."""
    lines = []
    for chosen, candidates in ((forward, found.forward), (backward, found.backward)):
        word = "backward" if chosen.backward else "forward"
        lines.append(f"{word}, {chosen.schedule}: {travels(chosen.schedule, ranks)}. {hidden(chosen)}")
        behind = [compared(other, chosen) for other in candidates if other.schedule in _ASKED and other != chosen]
        if behind:
            lines.append(f"{word}, the others: " + "; ".join(behind) + ".")
    return lines


def travels(schedule: str, ranks: int) -> str:
    """What a schedule sends where."""
    name, numbers = parse(schedule)
    heads, queries, keys = _groups(name, numbers, ranks)
    parts = []
    if heads > 1:
        parts.append(f"heads are dealt out over {heads} neighbours")
    if queries > 1:
        route = _TRAVELS[str(numbers.get("key_route", _route_of(name)))]
        parts.append(f"K, V travel over {queries} {_places(heads)}, {route}")
    if keys > 1:
        route = _TRAVELS[str(numbers.get("query_route", "back" if numbers.get("back") else "one"))]
        parts.append(f"queries travel over {keys} {_places(heads)}, {route}, and results straight home")
    return " and ".join(parts) if parts else "nothing travels"


def _places(heads: int) -> str:
    return "groups of ranks" if heads > 1 else "ranks"


def _route_of(name: str) -> str:
    return {"biring": "both", "allgather": "direct", "doublering": "levels", "multiring": "direct"}.get(name, "one")


def _groups(name: str, numbers: dict[str, int | str], ranks: int) -> tuple[int, int, int]:
    """Head, query and key groups of a named schedule or a point."""
    if name == "grid":
        heads, queries, keys = (int(numbers.get(key, 1)) for key in ("heads", "queries", "keys"))
        return heads, queries, keys
    if name == "ulysses":
        return ranks, 1, 1
    if name == "tokenring":
        return 1, 1, ranks
    if name == "tile":
        rows = int(numbers.get("rows", 1))
        return 1, rows, ranks // rows
    heads = int(numbers.get("heads", 1)) if name == "usp" else 1
    return heads, ranks // heads, 1


def hidden(chosen: Candidate) -> str:
    """How much of the communication computation hides, and what bounds the time."""
    if chosen.lane is None:
        return f"{_ms(chosen.seconds)}, all of it computation."
    covered = max(0.0, chosen.wire - chosen.exposed)
    text = (
        f"{_ms(chosen.seconds)}: {_ms(chosen.compute)} of computation; the busiest link, {chosen.lane}, takes "
        f"{_ms(chosen.wire)}, of which {_ms(covered)} are hidden"
    )
    if chosen.compute >= chosen.wire:
        return text + "; computation is the bound."
    return text + "; that link is the bound."


def compared(other: Candidate, chosen: Candidate) -> str:
    """How far another schedule is behind, and for which reason."""
    ratio = other.seconds / chosen.seconds
    if ratio < 1:
        shared = f"over {other.connections} connections on its busiest link instead of {chosen.connections}"
        return f"{other.schedule} is as fast, {shared}"
    if ratio < 1.005:
        return f"{other.schedule} is as fast"
    why = []
    if other.compute > 1.02 * chosen.compute:
        why.append(f"its slowest rank computes {_ms(other.compute)}")
    if other.lane is not None and other.wire > max(1.02 * chosen.wire, 0.2 * other.compute):
        more = f", {other.wire / chosen.wire:.1f} times as long" if chosen.wire else ""
        why.append(f"its busiest link, {other.lane}, takes {_ms(other.wire)}{more}")
    reason = " and ".join(why) if why else f"{_ms(other.exposed)} of its messages are not hidden"
    return f"{other.schedule} takes {ratio:.2f} times as long ({reason})"


def unnamed_win(candidates: Sequence[Candidate]) -> str | None:
    """A sentence where a point of the grid that has no name beats all that have one; None otherwise."""
    named = [c for c in candidates if not c.schedule.startswith("grid")]
    best = candidates[0]
    if not named or not best.schedule.startswith("grid") or best.seconds > 0.99 * named[0].seconds:
        return None
    gain = 1 - best.seconds / named[0].seconds
    word = "backward" if best.backward else "forward"
    return (
        f"{word}: {best.schedule} has no name in the literature and beats the best that has, {named[0].schedule}, "
        f"by {gain:.0%}."
    )


def _ms(seconds: float) -> str:
    value = seconds * 1e3
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.1f} ms" if value >= 1 else f"{value:.3f} ms"
