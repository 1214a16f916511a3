"""Prove that a schedule computes attention: every block once, with its inputs there, every result home once.

The verifier plays a schedule step by step on sets of names. It knows nothing of how schedules are built, so a user's
own is checked as the built-in ones are, and it names the first fault in words.
"""

from __future__ import annotations

import gc
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ringattn.schedule.messages import messages
from ringattn.schedule.value import Kind, Move, Schedule, Side, Step


class ScheduleError(ValueError):
    """A schedule that would not compute attention; the text names the first fault."""


@dataclass(frozen=True)
class Verification:
    """What a correct schedule asks of its ranks. The figures have one entry a rank, summed over what is counted in
    `size`; they are worked out when first read.

    peak_parcels: the most that parcels of other ranks, and copies of its own parcels set out for sending, take up at
        any time; with the default size the number of (chunk, head group) pairs of either side.
    peak_partials: the same for results on their way: made here for others, or arriving from others.
    peak: the most that both take up together.
    sent: what the rank sends in all.
    """

    steps: int
    tasks: int
    moves: int
    schedule: Schedule
    backward: bool
    size: Callable[[Kind, Side, int, int], int] | None

    @property
    def peak_parcels(self) -> tuple[int, ...]:
        return self._figures[0]

    @property
    def peak_partials(self) -> tuple[int, ...]:
        return self._figures[1]

    @property
    def peak(self) -> tuple[int, ...]:
        return self._figures[2]

    @property
    def sent(self) -> tuple[int, ...]:
        return self._figures[3]

    @cached_property
    def _figures(self) -> tuple[tuple[int, ...], ...]:
        with _without_collector():
            return _Lives(self.schedule, self.size).play(backward=self.backward)


def verify(
    schedule: Schedule,
    visible: NDArray[np.bool_] | None = None,
    *,
    backward: bool = False,
    size: Callable[[Kind, Side, int, int], int] | None = None,
) -> Verification:
    """Check `schedule`; raise ScheduleError at the first fault.

    visible: bool [query chunks, key chunks], the blocks with work in them; all unless given.
    backward: check the way home of the results on the key side (dk, dv) as well.
    size: what a chunk takes up, given (kind, side, chunk, head group); 1 each unless given. With the bytes of
        `ringattn.schedule.traffic` the figures are bytes.
    """
    with _without_collector():
        play = _Play(schedule, visible, backward)
        play.run()
    return Verification(len(schedule.steps), play.tasks, play.moves, schedule, backward, size)


@contextmanager
def _without_collector() -> Iterator[None]:
    """A large world is millions of small objects, and none of them garbage before the end."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class _Atoms:
    """Chunks that always go together: named together by every task and move, owned by one rank, and with the same
    blocks visible. Playing atoms instead of chunks halves the work of a zigzag's ring.

    of: a task's or a move's tuple of chunks -> its atoms; tuples that name no chunk, one that is not there or one
        twice are left out. owner: of each atom. chunk: the first of each atom. number: of each chunk, its atom.
    """

    def __init__(self, schedule: Schedule, visible: NDArray[np.bool_] | None) -> None:
        named: set[tuple[int, ...]] = set()
        for step in schedule.steps:
            for _, queries, keys, _ in step.tasks:
                named.add(queries)
                named.add(keys)
            named.update([move[4] for move in step.moves])
        right = [
            some
            for some in named
            if some and min(some) >= 0 and max(some) < schedule.chunks and len(set(some)) == len(some)
        ]
        groups: list[list[object]] = [[schedule.owner(chunk)] for chunk in range(schedule.chunks)]
        if visible is not None:
            for chunk, group in enumerate(groups):
                group += [visible[chunk].tobytes(), visible[:, chunk].tobytes()]
        for index, some in enumerate(right):
            for chunk in some:
                groups[chunk].append(index)
        numbers: dict[tuple[object, ...], int] = {}
        self.number = [numbers.setdefault(tuple(group), len(numbers)) for group in groups]
        self.chunk = [0] * len(numbers)
        for chunk in reversed(range(schedule.chunks)):
            self.chunk[self.number[chunk]] = chunk
        self.owner = [schedule.owner(chunk) for chunk in self.chunk]
        self.of = {some: tuple(sorted({self.number[chunk] for chunk in some})) for some in right}


class _Play:
    """The state of a schedule being played: who has what, what is computed, what is under way."""

    def __init__(
        self,
        schedule: Schedule,
        visible: NDArray[np.bool_] | None,
        backward: bool,
    ) -> None:
        self.schedule = schedule
        self.visible = visible
        self.backward = backward
        # What a rank has for a head group, by side and atom: the step whose end brought a parcel of others
        # (the number of steps where none has), and whether there is a partial for others. Flat, and made when first
        # asked for: large worlds look these up millions of times.
        self.places: list[tuple[array[int], bytearray] | None] = [None] * (schedule.world * len(schedule.heads))
        self.under_way: defaultdict[int, list[Move]] = defaultdict(list)
        self.tasks = self.moves = 0

    def run(self) -> None:
        self._check_form()
        self.atoms = _Atoms(self.schedule, self.visible)
        size = len(self.atoms.owner)
        # done[head group][query atom]: the key atoms computed with it, a bit each, so that a task of many blocks
        # (Ulysses computes all of a head group's at once) is a few operations on long numbers.
        self.done = [[0] * size for _ in self.schedule.heads]
        self.bits: dict[tuple[int, ...], int] = {}
        seen = None if self.visible is None else self.visible[np.ix_(self.atoms.chunk, self.atoms.chunk)]
        everything = (1 << size) - 1
        self.seen = [everything] * size if seen is None else [_number(row) for row in seen]
        for index, step in enumerate(self.schedule.steps):
            self._start_moves(index, step, Kind.PARCEL)
            self._run_tasks(index, step)
            self._start_moves(index, step, Kind.PARTIAL)
            self._end_step(index)
        self._check_end()

    def _place(self, rank: int, heads: int) -> tuple[array[int], bytearray]:
        number = rank * len(self.schedule.heads) + heads
        place = self.places[number]
        if place is None:
            items = 2 * len(self.atoms.owner)
            place = self.places[number] = (array("l", [len(self.schedule.steps)]) * items, bytearray(items))
        return place

    def _check_form(self) -> None:
        s = self.schedule
        if s.world < 1 or s.chunks_per_rank < 1 or not s.heads:
            raise ScheduleError(
                f"schedule {s.name!r} needs at least one rank, one chunk on each and one head group, got "
                f"{s.world} ranks, {s.chunks_per_rank} chunks on each and {len(s.heads)} head groups"
            )
        reached = 0
        for start, stop in s.heads:
            if start != reached or stop < start:
                raise ScheduleError(
                    f"schedule {s.name!r}: head groups follow one another without gap or overlap, got {s.heads}"
                )
            reached = stop
        if self.visible is not None and self.visible.shape != (s.chunks, s.chunks):
            raise ScheduleError(
                f"schedule {s.name!r} is over {s.chunks} chunks, the mask's blocks over {self.visible.shape}"
            )

    def _start_moves(self, index: int, step: Step, starting: Kind) -> None:
        owner, of, size = self.atoms.owner, self.atoms.of, len(self.atoms.owner)
        places, heads_in_all = self.places, len(self.schedule.heads)
        world, last = self.schedule.world, len(self.schedule.steps)
        for move in step.moves:
            source, target, kind, side, chunks, heads, due = move
            if kind is not starting:
                continue
            if not (0 <= source < world and 0 <= target < world):
                raise self._fault(index, move, f"there are ranks 0 to {world - 1} only")
            if source == target:
                raise self._fault(index, move, "a rank does not send to itself")
            if not index <= due < last:
                raise self._fault(
                    index,
                    move,
                    f"it is due at the end of step {due}, which is not one of steps {index} to {last - 1}",
                )
            atoms = of.get(chunks)
            if atoms is None or not 0 <= heads < heads_in_all:
                raise self._fault(index, move, self._misnamed(chunks))
            base = size if side is Side.KEY else 0
            if kind is Kind.PARCEL:
                for atom in atoms:
                    if owner[atom] != source:
                        has, _ = places[source * heads_in_all + heads] or self._place(source, heads)
                        if has[base + atom] >= index:
                            raise self._fault(index, move, self._absence(source, side, atom, heads, index))
                    if owner[atom] == target:
                        raise self._fault(index, move, f"chunk {self.atoms.chunk[atom]} is rank {target}'s own")
            elif side is Side.QUERY or self.backward:
                _, results = places[source * heads_in_all + heads] or self._place(source, heads)
                for atom in atoms:
                    if not results[base + atom]:
                        raise self._fault(
                            index,
                            move,
                            f"rank {source} has no result for chunk {self.atoms.chunk[atom]} at that time: nothing was "
                            "computed for it there yet, or it was sent before",
                        )
                    results[base + atom] = 0
            else:
                continue
            self.moves += 1
            self.under_way[due].append(move)

    def _run_tasks(self, index: int, step: Step) -> None:
        owner, of, size = self.atoms.owner, self.atoms.of, len(self.atoms.owner)
        places, heads_in_all, world = self.places, len(self.schedule.heads), self.schedule.world
        seen, bits, with_keys = self.seen, self.bits, self.backward
        for rank, queries, keys, heads in step.tasks:
            self.tasks += 1
            rows, columns = of.get(queries), of.get(keys)
            if rows is None or columns is None or not 0 <= rank < world or not 0 <= heads < heads_in_all:
                wrong = self._misnamed(queries if rows is None else keys)
                raise self._task_fault(index, rank, queries, keys, wrong)
            has, results = places[rank * heads_in_all + heads] or self._place(rank, heads)
            for side, atoms, base in ((Side.QUERY, rows, 0), (Side.KEY, columns, size)):
                for atom in atoms:
                    if owner[atom] != rank:
                        if has[base + atom] >= index:
                            raise self._task_fault(
                                index, rank, queries, keys, "but " + self._absence(rank, side, atom, heads, index)
                            )
                        if with_keys or side is Side.QUERY:
                            results[base + atom] = 1
            new = bits.get(columns)
            if new is None:
                new = bits[columns] = sum(1 << atom for atom in columns)
            done = self.done[heads]
            for q in rows:
                twice = done[q] & new & seen[q]
                if twice:
                    k = (twice & -twice).bit_length() - 1
                    raise ScheduleError(
                        f"schedule {self.schedule.name!r}, step {index}: rank {rank} computes the block of query "
                        f"chunk {self.atoms.chunk[q]} with key chunk {self.atoms.chunk[k]} (head group {heads}) a "
                        "second time; a block must be computed once"
                    )
                done[q] |= new

    def _end_step(self, index: int) -> None:
        owner, of, size = self.atoms.owner, self.atoms.of, len(self.atoms.owner)
        places, heads_in_all, never = self.places, len(self.schedule.heads), len(self.schedule.steps)
        for move in self.under_way.pop(index, ()):
            _, target, kind, side, chunks, heads, _ = move
            base = size if side is Side.KEY else 0
            for atom in of[chunks]:
                if owner[atom] == target:
                    continue  # a result is home; a parcel's owner is no target of it
                has, results = places[target * heads_in_all + heads] or self._place(target, heads)
                if kind is Kind.PARTIAL:
                    results[base + atom] = 1
                    continue
                if has[base + atom] != never:
                    chunk = self.atoms.chunk[atom]
                    raise self._fault(
                        index, move, f"rank {target} already has what it brings of chunk {chunk}", verb="arrives"
                    )
                has[base + atom] = index

    def _check_end(self) -> None:
        for number, place in enumerate(self.places):
            left = -1 if place is None else place[1].find(1)
            if left >= 0:
                rank, heads = divmod(number, len(self.schedule.heads))
                on_key_side, atom = divmod(left, len(self.atoms.owner))
                side = Side.KEY if on_key_side else Side.QUERY
                raise ScheduleError(
                    f"schedule {self.schedule.name!r}: the result of {_things(Kind.PARTIAL, side)} of chunk "
                    f"{self.atoms.chunk[atom]} (head group {heads}) that rank {rank} holds never gets home to "
                    f"rank {self.atoms.owner[atom]}"
                )
        size = len(self.atoms.owner)
        for heads, (start, stop) in enumerate(self.schedule.heads):
            if start == stop or all(seen & ~done == 0 for seen, done in zip(self.seen, self.done[heads])):
                continue
            computed = np.array([[done >> k & 1 for k in range(size)] for done in self.done[heads]], dtype=np.bool_)
            missing = ~computed[np.ix_(self.atoms.number, self.atoms.number)]
            if self.visible is not None:
                missing &= self.visible
            q, k = (int(i) for i in np.argwhere(missing)[0])
            raise ScheduleError(
                f"schedule {self.schedule.name!r}: nobody computes the block of query chunk {q} with key chunk "
                f"{k} (head group {heads}); {int(missing.sum())} blocks are missing in all"
            )

    def _misnamed(self, chunks: tuple[int, ...]) -> str:
        """Why a task or a move that names these chunks, or its rank or head group, names what is not there."""
        if chunks and (min(chunks) < 0 or max(chunks) >= self.schedule.chunks):
            return f"there are chunks 0 to {self.schedule.chunks - 1} only"
        if len(set(chunks)) < len(chunks):
            return "it names a chunk twice"
        return "it names no chunk, or a rank or a head group that is not there"

    def _task_fault(
        self, index: int, rank: int, queries: tuple[int, ...], keys: tuple[int, ...], why: str
    ) -> ScheduleError:
        return ScheduleError(
            f"schedule {self.schedule.name!r}, step {index}: rank {rank} computes queries of chunks "
            f"{_listed(queries)} with keys of chunks {_listed(keys)}, {why}"
        )

    def _absence(self, rank: int, side: Side, atom: int, heads: int, index: int) -> str:
        chunk = self.atoms.chunk[atom]
        what = f"the {_things(Kind.PARCEL, side)} of chunk {chunk} (head group {heads}) are not at rank {rank} then: "
        for start, step in enumerate(self.schedule.steps):
            for move in step.moves:
                brings = move.target == rank and move.kind is Kind.PARCEL and (move.side, move.heads) == (side, heads)
                if brings and chunk in move.chunks and move.due >= index:
                    return what + f"they arrive when step {move.due} ends (sent in step {start}), too late"
        return what + "no move brings them"

    def _fault(self, index: int, move: Move, why: str, verb: str = "starts") -> ScheduleError:
        return ScheduleError(
            f"schedule {self.schedule.name!r}, step {index}: the move of {_things(move.kind, move.side)} of chunks "
            f"{_listed(move.chunks)} (head group {move.heads}) from rank {move.source} to rank {move.target} that "
            f"{verb} here is wrong: {why}"
        )


class _Lives:
    """From which step to which step each message takes up memory, and what that comes to at the worst time.

    What arrives lives from the step in which its receive is posted to the last use of any part of it. Parcels that set
    out are sent from where they lie if they are just what one message brought; otherwise they are packed, and the
    packed copy lives while it is sent. Results for others live, message by message, from the first of them that is
    made or arrives to the end of the move that takes them away.
    """

    def __init__(self, schedule: Schedule, size: Callable[[Kind, Side, int, int], int] | None) -> None:
        self.schedule = schedule
        self.size = size
        world, steps = schedule.world, len(schedule.steps)
        # change[kind][rank][step]: what begins to take up memory in a step less what ended in the one before.
        self.change = {kind: [[0] * (steps + 2) for _ in range(world)] for kind in Kind}
        self.sent = [0] * world
        # brought[rank]: a parcel's item -> the life of its message: [first step, last step, amount, items in it].
        self.brought: list[dict[int, list[int]]] = [{} for _ in range(world)]
        self.first_made: list[dict[int, int]] = [{} for _ in range(world)]
        self.lives: list[tuple[int, list[int]]] = []

    def play(self, *, backward: bool) -> tuple[tuple[int, ...], ...]:
        """The figures of a schedule known to be correct."""
        chunks, each = self.schedule.chunks, self.schedule.chunks_per_rank
        under_way: defaultdict[int, list[Move]] = defaultdict(list)
        for index, step in enumerate(self.schedule.steps):
            starting: dict[Kind, list[list[Move]]] = {kind: [] for kind in Kind}
            for envelope, moves in messages(step, backward=backward).items():
                starting[envelope.kind].append(moves)
                under_way[envelope.due] += moves
            for moves in starting[Kind.PARCEL]:
                self.start(index, moves)
            for rank, queries, keys, heads in step.tasks:
                for side, some in ((Side.QUERY, queries), (Side.KEY, keys)):
                    base = _base(chunks, side, heads)
                    others = [base + chunk for chunk in some if chunk // each != rank]
                    self.task(index, rank, others, side is Side.QUERY or backward)
            for moves in starting[Kind.PARTIAL]:
                self.start(index, moves)
            self.end_step(index, under_way.pop(index, []))
        return self.figures()

    def start(self, index: int, moves: list[Move]) -> None:
        """The moves of one message, which sets out in step `index`."""
        chunks = self.schedule.chunks
        items = [_base(chunks, move.side, move.heads) + chunk for move in moves for chunk in move.chunks]
        amount = len(items)
        if self.size is not None:
            amount = sum(self.size(m.kind, m.side, chunk, m.heads) for m in moves for chunk in m.chunks)
        source, target, kind, _, _, _, due = moves[0]
        self.sent[source] += amount
        if kind is Kind.PARCEL:
            self._parcels(index, due, source, target, items, amount)
            return
        made = self.first_made[source]
        first = min([made.pop(item) for item in items])
        here, there = self.change[Kind.PARTIAL][source], self.change[Kind.PARTIAL][target]
        here[first] += amount
        here[due + 1] -= amount
        there[index] += amount
        there[due + 1] -= amount

    def _parcels(self, index: int, due: int, source: int, target: int, items: list[int], amount: int) -> None:
        brought = self.brought[source]
        lives = [brought.get(item) for item in items]
        first = lives[0]
        if first is not None and first[3] == len(items) and all(life is first for life in lives):
            first[1] = max(first[1], due)
        else:
            row = self.change[Kind.PARCEL][source]
            row[index] += amount
            row[due + 1] -= amount
            for life in lives:
                if life is not None:
                    life[1] = max(life[1], index)
        life = [index, due, amount, len(items)]
        self.lives.append((target, life))
        self.brought[target].update(dict.fromkeys(items, life))

    def task(self, index: int, rank: int, others: list[int], results_too: bool) -> None:
        """A task of `rank` uses the parcels `others`, and makes results for their owners."""
        brought, made = self.brought[rank], self.first_made[rank]
        for item in others:
            life = brought[item]
            if life[1] < index:
                life[1] = index
            if results_too:
                made.setdefault(item, index)

    def end_step(self, index: int, arrived: list[Move]) -> None:
        """Results that came to a rank on their way to another wait there from now on."""
        each = self.schedule.chunks_per_rank
        for move in arrived:
            if move.kind is Kind.PARTIAL:
                base = _base(self.schedule.chunks, move.side, move.heads)
                made = self.first_made[move.target]
                for chunk in move.chunks:
                    if chunk // each != move.target:
                        made.setdefault(base + chunk, index)

    def figures(self) -> tuple[tuple[int, ...], ...]:
        for rank, (first, last, amount, _) in self.lives:
            row = self.change[Kind.PARCEL][rank]
            row[first] += amount
            row[last + 1] -= amount
        parcels, partials = (np.cumsum(np.asarray(self.change[kind]), axis=1) for kind in (Kind.PARCEL, Kind.PARTIAL))
        columns = (parcels.max(axis=1), partials.max(axis=1), (parcels + partials).max(axis=1), np.asarray(self.sent))
        return tuple(tuple(int(value) for value in column) for column in columns)


def _base(chunks: int, side: Side, heads: int) -> int:
    """What is added to a chunk's number to give that of one side of it for one head group."""
    return (2 * heads + (side is Side.KEY)) * chunks


def _number(bits: NDArray[np.bool_]) -> int:
    """The number whose bit k is `bits[k]`."""
    return int.from_bytes(np.packbits(bits, bitorder="little").tobytes(), "little")


def _things(kind: Kind, side: Side) -> str:
    if kind is Kind.PARCEL:
        return "queries" if side is Side.QUERY else "keys and values"
    return "query results" if side is Side.QUERY else "key and value gradients"


def _listed(chunks: tuple[int, ...]) -> str:
    shown = ", ".join(str(chunk) for chunk in chunks[:4])
    return shown if len(chunks) <= 4 else f"{shown} ... ({len(chunks)} of them)"
