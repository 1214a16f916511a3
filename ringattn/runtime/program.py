"""One rank's view of a schedule: which messages it posts and computes step by step, and how long each buffer lives.

No torch here: a program is compiled once for a
shape and read by the executor.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from ringattn.schedule.messages import Item, messages
from ringattn.schedule.value import Kind, Schedule, Side, Task


@dataclass(eq=False)
class Message:
    """Parcels or partials between this rank and `peer`.

    items: what it carries, in the order of its bytes.
    late: it is posted once the step's tasks are done (`ringattn.schedule.messages`).
    first, last: the steps in which its buffer is taken and given back.
    forwards: the received message from whose buffer this one is sent as it lies.
    """

    kind: Kind
    peer: int
    step: int
    due: int
    items: tuple[Item, ...]
    first: int
    last: int
    late: bool = False
    forwards: Message | None = None


@dataclass(eq=False)
class ProgramStep:
    """What this rank does in one step: receives and sends posted, tasks computed, late ones posted, then what is
    waited for."""

    receives: list[Message] = field(default_factory=list)
    sends: list[Message] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    arrivals: list[Message] = field(default_factory=list)
    departures: list[Message] = field(default_factory=list)


@dataclass(eq=False)
class Program:
    """Compiled from a schedule that has been verified.

    destined: partial results made here for other ranks' chunks: in step s, item -> the message that takes it away.
    """

    rank: int
    steps: list[ProgramStep]
    destined: dict[tuple[int, Item], Message]


def compile_program(schedule: Schedule, rank: int, *, backward: bool) -> Program:
    """The program of `rank` for the forward, or for the backward, of `schedule`."""
    each = schedule.chunks_per_rank
    steps = [ProgramStep() for _ in range(_num_steps(schedule, backward))]
    brought: dict[Item, Message] = {}
    first_made: dict[Item, int] = {}
    made_in: defaultdict[Item, list[int]] = defaultdict(list)
    destined: dict[tuple[int, Item], Message] = {}
    for index, here in enumerate(steps):
        step = schedule.steps[index]
        leaving: list[Message] = []
        for (late, source, target, kind, due), moves in messages(step, backward=backward, rank=rank).items():
            # Rows of one side and head group lie one behind the other, so that a task reads them as one tensor.
            items = sorted(
                ((move.side, chunk, move.heads) for move in moves for chunk in move.chunks),
                key=lambda item: (item[0], item[2], item[1]),
            )
            peer = target if source == rank else source
            message = Message(kind, peer, index, due, tuple(items), index, due, late)
            if source == rank:
                if kind is Kind.PARCEL:
                    _forward_or_pack(message, brought)
                else:
                    leaving.append(message)
                here.sends.append(message)
                steps[due].departures.append(message)
            else:
                here.receives.append(message)
                steps[due].arrivals.append(message)
        for task in step.tasks:
            if task.rank != rank:
                continue
            here.tasks.append(task)
            for side, chunks in ((Side.QUERY, task.queries), (Side.KEY, task.keys)):
                for chunk in chunks:
                    if chunk // each != rank:
                        item = (side, chunk, task.heads)
                        brought[item].last = max(brought[item].last, index)
                        if side is Side.QUERY or backward:
                            first_made.setdefault(item, index)
                            made_in[item].append(index)
        for message in leaving:
            message.first = min(first_made.pop(item) for item in message.items)
            for item in message.items:
                for made in made_in.pop(item):
                    destined[made, item] = message
        for message in here.arrivals:
            for item in message.items:
                if message.kind is Kind.PARCEL:
                    brought[item] = message
                elif item[1] // each != rank:
                    first_made.setdefault(item, index)
                    made_in[item].append(index)
    return Program(rank, steps, destined)


def _num_steps(schedule: Schedule, backward: bool) -> int:
    """Steps up to the last in which any rank does anything; the forward has none of those in which only gradients of
    keys are on their way home."""
    count = 0
    for index, step in enumerate(schedule.steps):
        moves = [m for m in step.moves if backward or m.kind is Kind.PARCEL or m.side is Side.QUERY]
        if step.tasks or moves:
            count = max([count, index + 1, *(move.due + 1 for move in moves)])
    return count


def _forward_or_pack(message: Message, brought: dict[Item, Message]) -> None:
    origins = [brought.get(item) for item in message.items]
    first = origins[0]
    if first is not None and len(first.items) == len(origins) and all(o is first for o in origins):
        message.forwards = first
        first.last = max(first.last, message.due)
        return
    for origin in origins:
        if origin is not None:
            origin.last = max(origin.last, message.step)
