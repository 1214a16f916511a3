"""States at random passed along a route: what is timed, and the recurrence in fp64 that it is checked against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from ringattn.launch.compare.state_settings import StateConfig
from torch import Tensor

from ringattn.attention import SequenceParallel
from ringattn.layers.linear.effect import Effect, apply
from ringattn.layers.linear.prefix import entering_states
from ringattn.measure import Results, Run
from ringattn.schedule.states import Transition
from ringattn.sequence.layout import Layout
from ringattn.sequence.stretches import stretches

# What the results are called in a report: the states, and the gradients of transitions and additions.
NAMES = ("states", "dT", "dA")


class StateRun(Run):
    """One route. effects, grad: of this rank's chunks, as `chunk_inputs` makes them."""

    def __init__(self, sp: SequenceParallel, layout: Layout, route: str, effects: Effect, grad: Tensor) -> None:
        super().__init__(sp, effects.addition.device)
        self.layout, self.route, self.effects, self.grad = layout, route, effects, grad

    def inputs(self) -> list[Tensor]:
        return [x.detach().requires_grad_() for x in (self.effects.transition, self.effects.addition)]

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        return entering_states(Effect(*inputs), self.layout, self.sp, route=self.route)

    def grad_out(self) -> Tensor:
        return self.grad

    def names(self) -> tuple[str, ...]:
        return NAMES

    def own_bytes(self, *, backward: bool) -> int:
        given = self.effects.transition.nbytes + self.effects.addition.nbytes + self.grad.nbytes
        return given + (self.grad.nbytes if backward else 0)

    def known_bytes(self, *, backward: bool) -> int:
        # The states are as large as their gradient.
        gradients = self.effects.transition.nbytes + self.effects.addition.nbytes if backward else 0
        return self.own_bytes(backward=True) + gradients


def chunk_inputs(config: StateConfig, layout: Layout, chunks: Sequence[int]) -> tuple[Effect, Tensor]:
    """The effects of some chunks of the layout, and the gradients of the states that enter them, stacked.

    A chunk's numbers depend on its number alone. Transitions forget about as much as they keep.
    """
    shape = (config.batch, config.heads, config.key_dim, config.value_dim)
    more = {Transition.SCALAR: (), Transition.DIAGONAL: shape[2:3], Transition.DENSE: (shape[2], shape[2])}
    kind, dtype = config.sizes.transition, getattr(torch, config.dtype)
    stacks: tuple[list[Tensor], list[Tensor], list[Tensor]] = [], [], []
    for chunk in chunks:
        random = torch.Generator().manual_seed(1_000_003 * config.seed + chunk)
        if kind is Transition.DENSE:
            transition = torch.randn(*shape[:2], *more[kind], generator=random) * 0.7 / shape[2] ** 0.5
        else:
            transition = torch.rand(*shape[:2], *more[kind], generator=random)
        addition, grad = torch.randn(2, *shape, generator=random)
        if not len(layout.chunks[chunk]):
            transition = torch.eye(shape[2]).expand_as(transition) if kind is Transition.DENSE else transition * 0 + 1
            addition, grad = addition * 0, grad * 0
        for stack, made in zip(stacks, (transition, addition, grad)):
            stack.append(made.to(dtype))
    transitions, additions, grads = map(torch.stack, stacks)
    return Effect(transitions, additions), grads


class StateReference:
    """The recurrence over all chunks in fp64, by one process alone; each rank keeps its own part."""

    def __init__(self, config: StateConfig, layout: Layout, rank: int) -> None:
        effects, grad = chunk_inputs(config, layout, range(len(layout.chunks)))
        leaves = [x.double().requires_grad_() for x in (effects.transition, effects.addition)]
        whole = Effect(*leaves)
        entering = [torch.zeros_like(grad[0], dtype=torch.float64) for _ in layout.chunks]
        state = entering[0]
        for chunk in (chunk for stretch in stretches(layout) for chunk in stretch.chunks):
            entering[chunk] = state
            state = apply(Effect(whole.transition[chunk], whole.addition[chunk]), state)
        states = torch.stack(entering)
        made = (states.detach(), *torch.autograd.grad(states, leaves, grad.double()))
        each = layout.chunks_per_rank
        self._exact = {name: (x[rank * each : (rank + 1) * each], x.abs().max().item()) for name, x in zip(NAMES, made)}

    def error(self, results: Results) -> dict[str, float]:
        """The largest difference of each result on this rank, relative to the largest value of any."""
        found = {}
        for name, (exact, largest) in self._exact.items():
            worst = (results[name].cpu().double() - exact).abs().max().item()
            found[name] = worst / largest if largest else worst
        return found
