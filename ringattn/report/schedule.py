"""A schedule in words: the table of its steps, and the verifier's figures. Reads the value alone, and no torch.

Chunks are named by their owner: `2` is all that rank 2 owns, `2a` its first chunk, `2b` its second. What travels
or is computed has the names of attention's formulas: `q`, `kv` and `out` in the forward; in the backward `q` stands
for (q, dout, lse, delta), and `dq` and `dkv` are the results.
"""

from __future__ import annotations

import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import zip_longest

from ringattn.report.table import table
from ringattn.schedule.value import Kind, Move, Schedule, Side, Step, Task
from ringattn.schedule.verify import Verification

# Up to this many ranks every rank has its own row in each step; beyond it a step is summed up in one row.
ROWS_OF_RANKS = 8

# A summary of more steps than this leaves out the middle.
_SUMMARY_STEPS = 24

# The lists in the cells of the table are wrapped at this width, between their items, whose own spaces are glued.
_WRAP = 34
_GLUE = "\N{NO-BREAK SPACE}"

_WORDS = {
    (False, Kind.PARCEL, Side.QUERY): "q",
    (False, Kind.PARCEL, Side.KEY): "kv",
    (False, Kind.PARTIAL, Side.QUERY): "out",
    (True, Kind.PARCEL, Side.QUERY): "q",
    (True, Kind.PARCEL, Side.KEY): "kv",
    (True, Kind.PARTIAL, Side.QUERY): "dq",
    (True, Kind.PARTIAL, Side.KEY): "dkv",
}


def word_of(kind: Kind, side: Side, *, backward: bool) -> str:
    """The short name of what travels: `q`, `kv`, `out`, `dq` or `dkv`."""
    return _WORDS[backward, kind, side]


def moves_of(step: Step, *, backward: bool) -> list[Move]:
    """The moves of a step in one direction: the forward passes over those of key results, since there are none."""
    return [m for m in step.moves if (backward, m.kind, m.side) in _WORDS]


def name_chunks(schedule: Schedule, chunks: Iterable[int]) -> list[tuple[int, str]]:
    """(owner, name) for each owner of `chunks`: `2` for all that rank 2 owns, `2a` or `2ac` for some of it."""
    pieces: defaultdict[int, list[int]] = defaultdict(list)
    for chunk in sorted(chunks):
        pieces[schedule.owner(chunk)].append(chunk % schedule.chunks_per_rank)
    whole = schedule.chunks_per_rank
    return [(owner, str(owner) + ("" if len(of) == whole else _letters(of))) for owner, of in sorted(pieces.items())]


def describe(schedule: Schedule, *, backward: bool = False) -> str:
    """The table of steps: by rank where there are few of them, summed up otherwise."""
    if schedule.world <= ROWS_OF_RANKS:
        return by_rank(schedule, backward=backward)
    return summary(schedule, backward=backward)


def by_rank(schedule: Schedule, *, backward: bool = False) -> str:
    """One row a step and rank: what it computes, sends and receives while the step lasts."""
    sends: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
    receives: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
    for index, step in enumerate(schedule.steps):
        for move in moves_of(step, backward=backward):
            what = _what(schedule, move, backward=backward)
            later = f" by step {move.due}" if move.due > index else ""
            sends[index, move.source].append(f"{what} to {move.target}{later}")
            receives[move.due, move.target].append(f"{what} from {move.source}")
    rows = []
    for index, step in enumerate(schedule.steps):
        computes: defaultdict[int, list[str]] = defaultdict(list)
        for task in step.tasks:
            computes[task.rank].append(_block(schedule, task))
        first = str(index)
        busy = [rank for rank in range(schedule.world) if computes[rank] or sends[index, rank] or receives[index, rank]]
        for rank in busy:
            cells = [_wrapped(what) for what in (computes[rank], sends[index, rank], receives[index, rank])]
            for line, parts in enumerate(zip_longest(*cells, fillvalue="")):
                rows.append([first, "" if line else str(rank), *parts])
                first = ""
        if not busy:
            rows.append([first, "all", "-", "-", "-"])
    drawn = table(["step", "rank", "computes", "sends", "receives"], rows, left=("computes", "sends", "receives"))
    return drawn.replace(_GLUE, " ")


def summary(schedule: Schedule, *, backward: bool = False) -> str:
    """One row a step: how many ranks work, how many blocks one computes, and what is sent."""
    header = ["step", "ranks that compute", "blocks a rank", "chunks sent: q", "kv", "results"]
    rows = []
    for index, step in enumerate(schedule.steps):
        blocks: Counter[int] = Counter()
        for task in step.tasks:
            blocks[task.rank] += len(task.queries) * len(task.keys)
        sent: Counter[tuple[Kind, Side]] = Counter()
        for move in moves_of(step, backward=backward):
            sent[move.kind, move.side] += len(move.chunks)
        results = sum(count for (kind, _), count in sent.items() if kind is Kind.PARTIAL)
        parcels = [sent[Kind.PARCEL, side] for side in (Side.QUERY, Side.KEY)]
        per_rank = spread([blocks[rank] for rank in range(schedule.world)])
        rows.append([str(index), str(len(blocks)), per_rank, *map(str, [*parcels, results])])
    if len(rows) > _SUMMARY_STEPS:
        half = _SUMMARY_STEPS // 2
        rows = [*rows[:half], ["..."] * len(header), *rows[-half:]]
    return table(header, rows)


def figures(in_bytes: Verification, counted: Verification | None = None) -> str:
    """What the verifier says a schedule asks of its ranks: bytes, and the numbers of chunks from `counted`.

    One number where all ranks are alike, else the least and the most.
    """
    rows = [["steps", f"{in_bytes.steps:,}", ""], ["tasks", f"{in_bytes.tasks:,}", ""]]
    for name, field in (
        ("sent by a rank", "sent"),
        ("most inputs held at once", "peak_parcels"),
        ("most results held at once", "peak_partials"),
        ("most of both together", "peak"),
    ):
        count = "" if counted is None else f"{spread(getattr(counted, field))} chunks"
        rows.append([name, count, spread(getattr(in_bytes, field), unit="bytes")])
    return table(["figure", "count", "size"], rows, left=("figure",))


def spread(values: Sequence[int], *, unit: str = "") -> str:
    """`12`, or `8 to 12` where the values differ; with unit="bytes" in KiB, MiB or GiB."""
    low, high = min(values), max(values)
    shown = _bytes if unit == "bytes" else lambda value: f"{value:,}"
    return shown(low) if low == high else f"{shown(low)} to {shown(high)}"


def legend(schedule: Schedule, *, backward: bool = False) -> str:
    """What the names in the table stand for."""
    if backward:
        words = "q: (q, dout, lse, delta); kv: keys, values; dq, dkv: gradients on their way home"
    else:
        words = "q: queries; kv: keys, values; out: (out, lse) on its way home"
    pieces = f", 0a: the first of its {schedule.chunks_per_rank} chunks" if schedule.chunks_per_rank > 1 else ""
    lines = [words, f"0: all that rank 0 owns{pieces}"]
    if len(schedule.heads) > 1:
        groups = ", ".join(f"h{g} {_range(start, stop)}" for g, (start, stop) in enumerate(schedule.heads))
        lines.append(f"query heads: {groups}")
    return "\n".join(lines)


def _what(schedule: Schedule, move: Move, *, backward: bool) -> str:
    return word_of(move.kind, move.side, backward=backward) + _names(schedule, move.chunks) + _of(schedule, move.heads)


def _block(schedule: Schedule, task: Task) -> str:
    return f"q{_names(schedule, task.queries)} x kv{_names(schedule, task.keys)}{_of(schedule, task.heads)}"


def _names(schedule: Schedule, chunks: Iterable[int]) -> str:
    return "+".join(name for _, name in name_chunks(schedule, chunks))


def _of(schedule: Schedule, heads: int) -> str:
    return f" h{heads}" if len(schedule.heads) > 1 else ""


def _wrapped(items: Sequence[str]) -> list[str]:
    """`items` in lines of about `_WRAP` characters, `-` where there are none."""
    words = ", ".join(item.replace(" ", _GLUE) for item in items)
    return textwrap.wrap(words, _WRAP, break_long_words=False, break_on_hyphens=False) or ["-"]


def _letters(pieces: Sequence[int]) -> str:
    """`ac` for pieces 0 and 2; `a-d` for a run of more than three; numbers past the alphabet."""
    if pieces[-1] >= 26:
        return "." + ".".join(map(str, pieces))
    letters = "".join(chr(ord("a") + piece) for piece in pieces)
    run = len(pieces) > 3 and pieces[-1] - pieces[0] == len(pieces) - 1
    return f"{letters[0]}-{letters[-1]}" if run else letters


def _range(start: int, stop: int) -> str:
    if start == stop:
        return "none"
    return str(start) if stop - start == 1 else f"{start}-{stop - 1}"


def _bytes(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} B"
