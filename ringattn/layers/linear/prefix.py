"""The state that enters each of this rank's chunks, where the chunks of the sequence lie on many ranks.

A chunk m takes the state S_m that enters it to S_{m+1} = T_m S_m + A_m (`Effect`), and S_0 = 0. Which of them travel to
whom is a route (`ringattn.schedule.states`): LASP-2's all-gather (arXiv 2502.07563), LASP's ring (arXiv 2404.02882), or
that ring in slices. This file runs any of them.

With E_m the gradient of what is returned for chunk m, the gradient of the state is G_m = T_m^T G_{m+1} + E_m: the same
recurrence from the end of the sequence. So the backward is the forward of the reversed sequence, with the transitions
transposed and E as additions; what it finds to enter chunk m is G_{m+1}, and

    dA_m = G_{m+1},    dT_m = G_{m+1} S_m^T  (its diagonal, or its trace, where T_m is one).

What travels is as wide as the effects (fp32 or fp64), one contiguous message from a rank to another in a step.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ringattn.attention import SequenceParallel
from ringattn.layers.linear.effect import Effect, apply, compose
from ringattn.planner.states import choose_route
from ringattn.schedule.states import (
    AUTO,
    Advance,
    Carried,
    Carry,
    Join,
    StateRoute,
    StateSizes,
    Transition,
    fitted_route,
    make_state_route,
    state_messages,
    state_slices,
)
from ringattn.sequence.layout import Layout
from ringattn.sequence.stretches import stretches


def entering_states(effects: Effect, layout: Layout, sp: SequenceParallel, *, route: str = "allgather") -> Tensor:
    """The state that enters each of this rank's chunks. Collective; differentiable once, in both parts of `effects`.

    effects: of this rank's chunks, `layout.of(sp.rank)`, stacked: transition [chunks, B, H], [chunks, B, H, dk] or
        [chunks, B, H, dk, dk]; addition [chunks, B, H, dk, dv]; fp32 or fp64.
    route: a name from `ringattn.schedule.states.state_routes()`: `allgather`, `ring`, `scan`, `pipeline`,
        `pipeline:slices=8`; or `auto`: the planner's choice for `sp`'s cluster.

    Returns [chunks, B, H, dk, dv]. A chunk without tokens takes no part: zeros enter it, and its effect is not read.
    Every rank must use what it gets in its loss, since the backward is collective too.

    Raises ValueError (on every rank) where an argument does not fit, or where ranks make different calls.
    """
    call: _Call | None = None
    refused: ValueError | None = None
    try:
        call = _call(effects, layout, sp, route)
    except ValueError as error:
        refused = error
    sp.agree_as_set({} if call is None else call.terms, refused)
    assert call is not None
    entering: Tensor = _Entering.apply(effects.transition, effects.addition, call)
    return entering


def sizes_of(effects: Effect) -> StateSizes:
    """What the planner needs to know of stacked effects."""
    _, batch, heads, key_dim, value_dim = effects.addition.shape
    kind = [Transition.SCALAR, Transition.DIAGONAL, Transition.DENSE][effects.transition.ndim - 3]
    return StateSizes(batch, heads, key_dim, value_dim, kind, effects.addition.itemsize)


@dataclass(frozen=True)
class _Call:
    """stretches: of this rank, by their number: the local chunks in each. holders: the rank of every stretch."""

    sp: SequenceParallel
    route: str
    sizes: StateSizes
    holders: tuple[int, ...]
    stretches: dict[int, tuple[int, ...]]
    terms: dict[str, str]

    def reversed(self) -> dict[int, tuple[int, ...]]:
        """The stretches as the backward goes through them."""
        last = len(self.holders) - 1
        return {last - number: chunks[::-1] for number, chunks in self.stretches.items()}


def _call(effects: Effect, layout: Layout, sp: SequenceParallel, route: str) -> _Call:
    transition, addition = effects.transition, effects.addition
    if addition.ndim != 5:
        raise ValueError(
            f"the effects of chunks are stacked: the addition is [chunks, B, H, dk, dv], got {list(addition.shape)}"
        )
    if addition.dtype not in (torch.float32, torch.float64) or transition.dtype != addition.dtype:
        raise ValueError(
            "transition and addition are both float32 or both float64, since products of many transitions do not "
            f"survive fewer bits; got {transition.dtype} and {addition.dtype}: convert with .float()"
        )
    if layout.world != sp.world:
        raise ValueError(f"the layout is for {layout.world} ranks, but the group has {sp.world}")
    if addition.shape[0] != layout.chunks_per_rank:
        raise ValueError(
            f"rank {sp.rank} has {layout.chunks_per_rank} chunks in layout {layout.name!r}, and effects of "
            f"{addition.shape[0]} were given; stack one for each of layout.of(sp.rank), empty chunks too"
        )
    # Before ranks agree, since a rank cannot leave afterwards.
    sp.exchanges("the state", addition.device, backward=False)
    sizes = sizes_of(effects)
    if route == AUTO:
        # Nothing travels from one rank to itself.
        route = choose_route(layout, sizes, sp.planned(addition.device)) if sp.world > 1 else "ring"
    route = fitted_route(route, sizes.heads, sizes.value_dim)
    passed = stretches(layout)
    holders = tuple(stretch.rank for stretch in passed)
    first = sp.rank * layout.chunks_per_rank
    own = {
        number: tuple(chunk - first for chunk in stretch.chunks)
        for number, stretch in enumerate(passed)
        if stretch.rank == sp.rank
    }
    terms = {
        "the states' route": route,
        "the state [B, H, dk, dv]": str(list(addition.shape[1:])),
        "the transition": sizes.transition.value,
        "the states' dtype": str(addition.dtype).removeprefix("torch."),
        "the layout": f"{layout.name} of {layout.length} tokens "
        + hashlib.sha256(repr(layout.chunks).encode()).hexdigest()[:8],
    }
    return _Call(sp, route, sizes, holders, own, terms)


class _Entering(torch.autograd.Function):
    """`entering_states` and its gradient."""

    @staticmethod
    def forward(ctx: Any, transition: Tensor, addition: Tensor, call: _Call) -> Tensor:
        route = make_state_route(call.route, call.sp.world, call.holders)
        entering = _Pass(call, route, call.stretches, Effect(transition, addition), backward=False).run()
        ctx.save_for_backward(transition, entering)
        ctx.call = call
        return entering

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        transition, entering = ctx.saved_tensors
        call: _Call = ctx.call
        route = make_state_route(call.route, call.sp.world, call.holders[::-1])
        dense = call.sizes.transition is Transition.DENSE
        turned = Effect(transition.mT if dense else transition, grad)
        leaving = _Pass(call, route, call.reversed(), turned, backward=True).run()
        if not ctx.needs_input_grad[0]:
            return None, leaving, None
        if dense:
            return leaving @ entering.mT, leaving, None
        dims = (-1,) if call.sizes.transition is Transition.DIAGONAL else (-2, -1)
        return (leaving * entering).sum(dims), leaving, None


class _Pass:
    """One direction on one rank: the route's tasks and moves, and the chunks inside the rank's own stretches."""

    def __init__(
        self, call: _Call, route: StateRoute, own: dict[int, tuple[int, ...]], effects: Effect, *, backward: bool
    ) -> None:
        self.route, self.own, self.effects, self.sizes = route, own, effects, call.sizes
        self.rank = call.sp.rank
        self.slices = state_slices(call.sizes.heads, call.sizes.value_dim, route.slices)
        self.exchanges = call.sp.exchanges(
            f"linear states, route {route.name},", effects.addition.device, backward=backward
        )
        # Zeros enter the first chunk, and those without tokens.
        self.entering = torch.zeros_like(effects.addition, memory_format=torch.contiguous_format)
        self.entered: set[tuple[int, int]] = set()
        self.states: dict[tuple[int, int], Tensor] = {}
        # How often each state is still wanted here: it goes once it is not.
        self.wanted: Counter[tuple[int, int]] = Counter()
        # Of other ranks' stretches, or of several: by the first and the last.
        self.found: dict[tuple[int, int], Effect] = {}
        self.pool = call.sp.pool(effects.addition.device)
        self.taken: list[Tensor] = []

    def run(self) -> Tensor:
        self._count()
        for index, step in enumerate(self.route.steps):
            for task in step.tasks:
                if task.rank == self.rank:
                    with self._timed("compute", index):
                        self._do(task)
            self._exchange(index)
        with self._timed("compute", len(self.route.steps)):
            for stretch in self.own:
                for part in range(self.route.slices):
                    if (stretch, part) not in self.entered:
                        self._pass_through(stretch, part)
        # What was received is read until here.
        for buffer in self.taken:
            self.pool.give_back(buffer)
        return self.entering

    @contextmanager
    def _timed(self, kind: str, index: int) -> Iterator[None]:
        """An event of the timeline, where one is recorded."""
        timeline = self.exchanges.timeline if self.exchanges else None
        start = timeline.now() if timeline else 0.0
        yield
        if timeline and self.exchanges:
            timeline.add(kind, self.exchanges.direction, index, start)

    def _count(self) -> None:
        passed = {(stretch, part) for stretch in self.own for part in range(self.route.slices)}
        for step in self.route.steps:
            for task in step.tasks:
                if isinstance(task, Advance) and task.rank == self.rank:
                    self.wanted[task.stretch, task.slice] += 1
                    if task.last == task.stretch:
                        passed.discard((task.stretch, task.slice))
            for move in step.moves:
                if move.kind is Carried.STATE and move.source == self.rank:
                    self.wanted[move.stretch, move.slice] += 1
        # Those of one's own stretches that no task passes through are passed through at the end.
        self.wanted.update(passed)

    def _state(self, stretch: int, part: int) -> Tensor | None:
        """The state that enters a stretch; None at the start of the sequence, where it is zero."""
        key = stretch, part
        self.wanted[key] -= 1
        return self.states.get(key) if self.wanted[key] > 0 else self.states.pop(key, None)

    def _do(self, task: Advance | Join) -> None:
        if isinstance(task, Join):
            first = self._effect(task.stretch, task.middle - 1)
            self.found[task.stretch, task.last] = compose(first, self._effect(task.middle, task.last))
            return
        stretch, part = task.stretch, task.slice
        if stretch in self.own and stretch == task.last:
            after = self._pass_through(stretch, part)
        else:
            effect, state = self._effect(stretch, task.last), self._state(stretch, part)
            after = effect.addition if state is None else apply(effect, state)
        self.states[task.last + 1, part] = after

    def _effect(self, first: int, last: int) -> Effect:
        if (first, last) not in self.found:
            assert first == last, "the verifier has proven that a rank has what it uses"
            self.found[first, last] = self._whole(self.own[first])
        return self.found[first, last]

    def _pass_through(self, stretch: int, part: int) -> Tensor:
        """Take a slice of the state past one's own stretch, and keep what enters each chunk on the way."""
        (top, bottom), (left, right) = self.slices[part]
        state = self._state(stretch, part)
        for chunk in self.own[stretch]:
            effect = Effect(
                self.effects.transition[chunk, :, top:bottom],
                self.effects.addition[chunk, :, top:bottom, :, left:right],
            )
            if state is None:
                state = effect.addition
            else:
                self.entering[chunk, :, top:bottom, :, left:right] = state
                state = apply(effect, state)
        self.entered.add((stretch, part))
        assert state is not None
        return state

    def _exchange(self, index: int) -> None:
        step = self.route.steps[index]
        messages = state_messages(step, self.rank)
        if not messages:
            return
        assert self.exchanges is not None, "a world of one rank has no messages"
        sends, receives = {}, {}
        # What goes to several ranks is packed once.
        packed: dict[tuple[tuple[Carried, int, int, int], ...], Tensor] = {}
        with self._timed("post", index):
            for (source, target), moves in messages.items():
                if source == self.rank:
                    what = tuple((move.kind, move.stretch, move.slice, move.last) for move in moves)
                    if what not in packed:
                        pieces = [piece for move in moves for piece in self._pieces(move)]
                        packed[what] = torch.cat(pieces, out=self._buffer(moves))
                    sends[target] = packed[what]
                else:
                    receives[source] = self._buffer(moves)
        self.exchanges.exchange(receives, sends, step=index)
        for source, buffer in receives.items():
            self._take_in(messages[source, self.rank], buffer)

    def _buffer(self, moves: Sequence[Carry]) -> Tensor:
        self.taken.append(self.pool.take(sum(self.sizes.carried_bytes(move, self.route.slices) for move in moves)))
        return self.taken[-1].view(self.entering.dtype)

    def _pieces(self, move: Carry) -> list[Tensor]:
        if move.kind is Carried.STATE:
            state = self._state(move.stretch, move.slice)
            assert state is not None, "zeros do not travel"
            return [state.reshape(-1)]
        effect = self._effect(move.stretch, move.last)
        first = [effect.transition.reshape(-1)] if move.stretch else []
        return [*first, effect.addition.reshape(-1)]

    def _whole(self, chunks: Sequence[int]) -> Effect:
        """The effect of some of this rank's chunks behind one another."""
        each = [Effect(self.effects.transition[chunk], self.effects.addition[chunk]) for chunk in chunks]
        whole = each[0]
        for effect in each[1:]:
            whole = compose(whole, effect)
        return whole

    def _take_in(self, moves: Sequence[Carry], buffer: Tensor) -> None:
        start = 0

        def take(shape: Sequence[int]) -> Tensor:
            nonlocal start
            piece = buffer[start : start + torch.Size(shape).numel()].view(*shape)
            start += piece.numel()
            return piece

        whole = self.effects.addition.shape[1:]
        for move in moves:
            if move.kind is Carried.STATE:
                (top, bottom), (left, right) = self.slices[move.slice]
                shape = (whole[0], bottom - top, whole[2], right - left)
                self.states[move.stretch, move.slice] = take(shape)
            elif move.stretch:
                self.found[move.stretch, move.last] = Effect(take(self.effects.transition.shape[1:]), take(whole))
            else:
                addition = take(whole)
                self.found[0, move.last] = Effect(addition.new_ones(whole[:2]), addition)
