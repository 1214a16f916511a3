"""The messages of a step: all moves of one kind between two ranks that start and are due together.

A rank posts one send or one receive for a message, whatever number of chunks and heads it carries.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from ringattn.schedule.value import Kind, Move, Side, Step, Task

Item = tuple[Side, int, int]  # side, chunk, head group


class Envelope(NamedTuple):
    """What makes moves one message. late: results that the source makes in this very step are in it, so it leaves
    once the step's tasks are done, and not when the step begins."""

    late: bool
    source: int
    target: int
    kind: Kind
    due: int


def messages(step: Step, *, backward: bool, rank: int | None = None) -> dict[Envelope, list[Move]]:
    """The messages that start in `step`, or those of one rank, in an order that both ends share: by envelope.

    The forward passes over moves of key results, since there are none.
    """
    found: defaultdict[Envelope, list[Move]] = defaultdict(list)
    makes: dict[int, set[Item]] | None = None
    for move in step.moves:
        if rank is not None and rank not in (move.source, move.target):
            continue
        late = False
        if move.kind is Kind.PARTIAL:
            if move.side is Side.KEY and not backward:
                continue
            if makes is None:
                makes = _made_by_rank(step.tasks)
            made = makes.get(move.source)
            late = made is not None and any((move.side, chunk, move.heads) in made for chunk in move.chunks)
        found[Envelope(late, move.source, move.target, move.kind, move.due)].append(move)
    return {envelope: found[envelope] for envelope in sorted(found)}


def _made_by_rank(tasks: Iterable[Task]) -> dict[int, set[Item]]:
    makes: defaultdict[int, set[Item]] = defaultdict(set)
    for rank, queries, keys, heads in tasks:
        makes[rank].update([(Side.QUERY, chunk, heads) for chunk in queries])
        makes[rank].update([(Side.KEY, chunk, heads) for chunk in keys])
    return makes
