"""A route as a value: how the states of linear attentions get past the ranks. No torch, no tensors.

A sibling of `ringattn.schedule.value`, for what a `Schedule` cannot say: its tasks are blocks of a cube in any order,
while a state goes through the stretches of the sequence (`ringattn.sequence.stretches`) one after another. Two kinds of
things travel, whose size does not grow with the sequence:

  effect   what a stretch, or some that follow one another, does to any state: its transition and its addition
  state    the state that enters a stretch

One value describes forward and backward. The gradient of a state is the same recurrence in the reversed order, with
transitions transposed and the gradients of the entering states as additions, so the backward runs the value that is
built for the reversed sequence.

A step's tasks come before its moves: a state that leaves in a step may be made by the step's tasks. What a move brings
is there when the step ends. A state may be cut into slices (by heads, or by columns of values where there are more
slices than heads), which are independent: no transition mixes them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from ringattn.sequence.layout import split
from ringattn.sequence.suggest import suggest


class Carried(str, Enum):
    """What a move brings."""

    EFFECT = "effect"
    STATE = "state"


class Transition(str, Enum):
    """What a stretch does to a state of dk rows: a number a head, a number a row, or a matrix [dk, dk] a head."""

    SCALAR = "scalar"
    DIAGONAL = "diagonal"
    DENSE = "dense"


class Advance(NamedTuple):
    """`rank` takes one slice of the state that enters `stretch` past it and those behind it up to `last`."""

    rank: int
    stretch: int
    slice: int
    last: int


class Join(NamedTuple):
    """`rank` makes the effect of the stretches `stretch` to `last` from those before `middle` and from it on."""

    rank: int
    stretch: int
    middle: int
    last: int


class Carry(NamedTuple):
    """From rank `source` to rank `target`: the effect of the stretches `stretch` to `last`, or one slice of the state
    that enters `stretch` (which is `last` too)."""

    source: int
    target: int
    kind: Carried
    stretch: int
    slice: int
    last: int


class StateStep(NamedTuple):
    """What happens together: first the tasks in their order, then the moves."""

    tasks: tuple[Advance | Join, ...]
    moves: tuple[Carry, ...]


@dataclass(frozen=True)
class StateRoute:
    """See the module's text. holders: the rank of each stretch, in the order in which the state passes them."""

    name: str
    world: int
    holders: tuple[int, ...]
    slices: int
    steps: tuple[StateStep, ...]


@dataclass(frozen=True)
class StateSizes:
    """The state of one layer: batch x heads matrices [key_dim, value_dim]. item_bytes: 4 (fp32) or 8."""

    batch: int
    heads: int
    key_dim: int
    value_dim: int
    transition: Transition
    item_bytes: int = 4

    def state_bytes(self, slices: int = 1, number: int = 0) -> int:
        """Of one slice of a state or of an addition."""
        (first, last), (left, right) = state_slices(self.heads, self.value_dim, slices)[number]
        return self.batch * (last - first) * self.key_dim * (right - left) * self.item_bytes

    def transition_bytes(self) -> int:
        """Of a stretch's transition, all heads."""
        each = {Transition.SCALAR: 1, Transition.DIAGONAL: self.key_dim, Transition.DENSE: self.key_dim**2}
        return self.batch * self.heads * each[self.transition] * self.item_bytes

    def carried_bytes(self, move: Carry, slices: int) -> int:
        """Of a move. The first stretch's effect goes without its transition: the state before it is zero."""
        if move.kind is Carried.STATE:
            return self.state_bytes(slices, move.slice)
        return self.state_bytes() + (self.transition_bytes() if move.stretch else 0)


def state_slices(heads: int, value_dim: int, slices: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """(range of heads, range of value columns) of each slice: heads are dealt out, or, for more slices, columns."""
    if slices <= heads:
        return [((part.start, part.stop), (0, value_dim)) for part in split(range(heads), slices)]
    if slices > value_dim:
        raise ValueError(
            f"a state of {heads} heads and {value_dim} value columns can be cut into {max(heads, value_dim)} slices "
            f"at most, got {slices}; name fewer, as in pipeline:slices={max(heads, value_dim)}"
        )
    return [((0, heads), (part.start, part.stop)) for part in split(range(value_dim), slices)]


def _allgather(world: int, holders: tuple[int, ...], slices: int) -> list[StateStep]:
    """All effects to whoever holds a later stretch, at once; each rank computes its own prefixes (LASP-2)."""
    last = {rank: stretch for stretch, rank in enumerate(holders)}
    moves = [
        Carry(source, target, Carried.EFFECT, stretch, 0, stretch)
        for stretch, source in enumerate(holders)
        for target in range(world)
        if target != source and last.get(target, -1) > stretch
    ]
    tasks = [Advance(rank, stretch, 0, stretch) for rank in sorted(last) for stretch in range(last[rank])]
    return [StateStep((), tuple(moves)), StateStep(tuple(tasks), ())]


def _ring(world: int, holders: tuple[int, ...], slices: int) -> list[StateStep]:
    """The state goes from stretch to stretch, `slices` of it behind one another (LASP, and its pipeline)."""
    hops = len(holders) - 1
    steps = []
    for step in range(hops + slices - 1 if hops > 0 else 0):
        at = [(stretch, step - stretch) for stretch in range(hops) if 0 <= step - stretch < slices]
        tasks = tuple(Advance(holders[stretch], stretch, part, stretch) for stretch, part in at)
        moves = tuple(
            Carry(holders[stretch], holders[stretch + 1], Carried.STATE, stretch + 1, part, stretch + 1)
            for stretch, part in at
        )
        steps.append(StateStep(tasks, moves))
    return steps


def _scan(world: int, holders: tuple[int, ...], slices: int) -> list[StateStep]:
    """Parallel prefixes by doubling (Hillis and Steele, Data Parallel Algorithms, 1986): with distances 1, 2, 4, ...
    the holder of a stretch sends the effect of as many stretches, its own the last, so far ahead, where it is joined
    with that of those between. One that reaches back to the start is a state, and smaller."""
    known: list[set[tuple[Carried, int, int]]] = [set() for _ in range(world)]
    for stretch, holder in enumerate(holders):
        known[holder].add((Carried.EFFECT, stretch, stretch))
    tasks: list[Advance | Join] = []

    def join(rank: int, first: int, middle: int, last: int) -> None:
        """The stretches from `first` on, or the state behind them where that is the start, unless they are known."""
        item = (Carried.EFFECT, first, last) if first > 0 else (Carried.STATE, last + 1, last + 1)
        if item not in known[rank]:
            tasks.append(Join(rank, first, middle, last) if first > 0 else Advance(rank, middle, 0, last))
            known[rank].add(item)

    steps = []
    distance = 1
    while distance < len(holders):
        moves = []
        for last in range(len(holders) - distance):
            first = max(0, last - distance + 1)
            join(holders[last], first, last, last)
            source, target = holders[last], holders[last + distance]
            item = (Carried.EFFECT, first, last) if first else (Carried.STATE, last + 1, last + 1)
            if source != target and item not in known[target]:
                moves.append(Carry(source, target, item[0], item[1], 0, item[2]))
                known[target].add(item)
        steps.append(StateStep(tuple(tasks), tuple(moves)))
        tasks.clear()
        if distance > 1:
            for number in range(distance, len(holders)):
                join(holders[number], max(0, number - 2 * distance + 1), number - distance + 1, number - 1)
        distance *= 2
    return [*steps, StateStep(tuple(tasks), ())]


_BUILDERS = {"allgather": _allgather, "pipeline": _ring, "ring": _ring, "scan": _scan}

# What `route=` takes besides names: the planner's choice for the cluster that `SequenceParallel` was given.
AUTO = "auto"

# Slices of `pipeline` unless it is given a number, where the state has as many.
_SLICES = 4

_ABOUT = {
    "allgather": "every rank gathers the effects of all stretches before its own (LASP-2, arXiv 2502.07563)",
    "pipeline": "the ring with the state in slices, which ranks take on at the same time (ZeCO, arXiv 2507.01004)",
    "ring": "the state goes from stretch to stretch in the sequence's order (LASP, arXiv 2404.02882)",
    "scan": "effects of 1, 2, 4, ... stretches are joined: as many steps as the logarithm of the ranks",
}


def state_routes() -> list[str]:
    """The names that `route=` takes; `pipeline` takes a number too, as in `pipeline:slices=8`."""
    return sorted(_BUILDERS)


def about_state_route(name: str) -> str:
    """What a route does, in a line."""
    return _ABOUT[parse_state_route(name)[0]]


def parse_state_route(spec: str) -> tuple[str, int]:
    """The name of a route and its number of slices. ValueError where the name is unknown or the number is none."""
    name, colon, numbers = spec.partition(":")
    if name not in _BUILDERS:
        known = state_routes()
        raise ValueError(f"unknown state route {name!r}{suggest(name, known)}; there are {', '.join(known)}")
    if not colon:
        return name, _SLICES if name == "pipeline" else 1
    key, _, value = numbers.partition("=")
    if name != "pipeline" or key != "slices":
        raise ValueError(f"state route {spec!r}: only pipeline takes a number, as in pipeline:slices=8")
    if not value.isdigit() or int(value) < 1:
        raise ValueError(f"state route 'pipeline': slices must be a whole number from 1 on, got {value!r}")
    return name, int(value)


def check_route(spec: str) -> None:
    """ValueError where `route=` cannot take this: a route's name, with a number where it takes one, or `auto`."""
    if spec != AUTO:
        parse_state_route(spec)


def fitted_route(spec: str, heads: int, value_dim: int) -> str:
    """The route with a number of slices that such a state has. ValueError where it is given one that it has not."""
    name, slices = parse_state_route(spec)
    if ":" not in spec and slices > max(heads, value_dim):
        return f"{name}:slices={max(heads, value_dim)}"
    state_slices(heads, value_dim, slices)
    return spec


@lru_cache(maxsize=256)
def make_state_route(spec: str, world: int, holders: tuple[int, ...]) -> StateRoute:
    """The route called `spec` past stretches on the ranks `holders` of `world`."""
    name, slices = parse_state_route(spec)
    steps = tuple(step for step in _BUILDERS[name](world, holders, slices) if step.tasks or step.moves)
    return StateRoute(spec, world, holders, slices, steps)


def state_messages(step: StateStep, rank: int | None = None) -> dict[tuple[int, int], list[Carry]]:
    """What goes from one rank to another in a step is one message: the moves by (source, target), or those of `rank`,
    in an order that both ends share."""
    found: defaultdict[tuple[int, int], list[Carry]] = defaultdict(list)
    for move in step.moves:
        if rank is None or rank in (move.source, move.target):
            found[move.source, move.target].append(move)
    return {ends: sorted(found[ends], key=lambda move: (move.kind, move.stretch, move.slice)) for ends in sorted(found)}


@dataclass(frozen=True)
class StateTraffic:
    """What a route was proven to do. sent, received: bytes by rank; zeros where no sizes were given."""

    sent: tuple[int, ...]
    received: tuple[int, ...]


def verify_state_route(route: StateRoute, sizes: StateSizes | None = None) -> StateTraffic:
    """Prove that every rank comes to know the state that enters each of its stretches.

    Raises:
        ValueError: a rank sends or uses what it does not have, gets a thing twice or sends to itself, or is left
            without the state that enters one of its stretches; the first fault in words.
    """
    world, holders = route.world, route.holders
    effects: list[set[tuple[int, int]]] = [set() for _ in range(world)]
    for stretch, holder in enumerate(holders):
        effects[holder].add((stretch, stretch))
    states = [{(0, part) for part in range(route.slices)} for _ in range(world)]
    sent, received = [0] * world, [0] * world
    for number, step in enumerate(route.steps, 1):
        for task in step.tasks:
            if isinstance(task, Join):
                parts = {(task.stretch, task.middle - 1), (task.middle, task.last)}
                if not parts <= effects[task.rank]:
                    what = f"rank {task.rank} joins the effects of {span(task.stretch, task.middle - 1)} and of "
                    raise _fault(route, number, f"{what}{span(task.middle, task.last)}, and does not have both")
                effects[task.rank].add((task.stretch, task.last))
                continue
            what = f"rank {task.rank} takes slice {task.slice} past {span(task.stretch, task.last)}"
            if (task.stretch, task.last) not in effects[task.rank]:
                raise _fault(route, number, f"{what}, whose effect it does not have")
            if (task.stretch, task.slice) not in states[task.rank]:
                raise _fault(route, number, f"{what}, and does not have the state that enters it")
            states[task.rank].add((task.last + 1, task.slice))
        arrived = set()
        for move in step.moves:
            what = (
                f"rank {move.source} sends rank {move.target} the {move.kind.value} of {span(move.stretch, move.last)}"
            )
            of = [effects[end] if move.kind is Carried.EFFECT else states[end] for end in (move.source, move.target)]
            item = (move.stretch, move.last if move.kind is Carried.EFFECT else move.slice)
            if move.source == move.target:
                raise _fault(route, number, f"{what}: itself")
            if item not in of[0]:
                raise _fault(route, number, f"{what}, which it does not have")
            if item in of[1] or (move.target, move.kind, item) in arrived:
                raise _fault(route, number, f"{what}, which it has already")
            arrived.add((move.target, move.kind, item))
            size = sizes.carried_bytes(move, route.slices) if sizes else 0
            sent[move.source] += size
            received[move.target] += size
        for target, kind, item in arrived:
            (effects if kind is Carried.EFFECT else states)[target].add(item)
    for stretch, holder in enumerate(holders):
        for part in range(route.slices):
            if (stretch, part) not in states[holder]:
                raise _fault(
                    route, len(route.steps), f"rank {holder} never has the state that enters stretch {stretch}"
                )
    return StateTraffic(tuple(sent), tuple(received))


def promised_bytes(spec: str, world: int, holders: Sequence[int], sizes: StateSizes, *, backward: bool) -> StateTraffic:
    """The bytes that each rank sends and receives under the route `spec`, in the forward or in the backward."""
    order = tuple(reversed(holders)) if backward else tuple(holders)
    return verify_state_route(make_state_route(fitted_route(spec, sizes.heads, sizes.value_dim), world, order), sizes)


def span(first: int, last: int) -> str:
    """`stretch 2`, or `stretches 2 to 5`."""
    return f"stretch {first}" if first == last else f"stretches {first} to {last}"


def _fault(route: StateRoute, step: int, what: str) -> ValueError:
    return ValueError(f"state route {route.name!r}, step {step}: {what}")
