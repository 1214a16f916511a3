"""Mixers whose sequence is spread over ranks compute what they compute on one process, in fp64 to 1e-9, on every rank:
the output, the gradient of the input, and the gradient of each parameter summed over ranks."""

import dataclasses
from dataclasses import dataclass

import pytest
import torch
import torch.distributed as dist
from ranks import refusals, run_ranks
from tiny_mixers import make_bound, make_hidden, make_mixer
from torch import Tensor

from ringattn.attention import SequenceParallel
from ringattn.layers.linear.context import Context
from ringattn.layers.linear.mixers import MIXERS
from ringattn.layers.linear.mixers.mixer import Mixer


@dataclass(frozen=True)
class Case:
    world: int = 2
    layout: str = "zigzag"
    length: int = 21
    documents: tuple[int, ...] | None = None
    route: str = "allgather"

    def __str__(self) -> str:
        packed = "packed" if self.documents else "whole"
        return f"{self.layout}-{self.world}-{self.length}-{packed}-{self.route}"


def weight(length: int) -> Tensor:
    return torch.sin(torch.arange(2 * length * 8, dtype=torch.float64)).view(2, length, 8)


@dataclass
class Given:
    """Of one rank: threads share the random generator, so that nothing is drawn in them."""

    mixer: Mixer
    hidden: Tensor
    bound: Tensor | None


def given_of(name: str, case: Case) -> Given:
    mixer = make_mixer(name)
    bound = make_bound(name, mixer)
    return Given(mixer, make_hidden(case.length), None if bound is None else bound.requires_grad_())


def step(given: Given, hidden: Tensor, weights: Tensor, context: Context) -> list[Tensor]:
    """out, the gradient of the input, of the lower bound where there is one, and of each parameter."""
    hidden = hidden.clone().requires_grad_()
    out = given.mixer(hidden, context=dataclasses.replace(context, lower_bound=given.bound))
    (out * weights).sum().backward()
    of_bound = [] if given.bound is None else [given.bound.grad]
    return [out.detach(), hidden.grad, *of_bound, *(parameter.grad for parameter in given.mixer.parameters())]


def spread(rank: int, each: list[Given], case: Case) -> list[Tensor]:
    sp, given = SequenceParallel(layout=case.layout), each[rank]
    context = Context.spread(sp, case.length, case.documents, route=case.route)
    out, grad, *summed = step(given, sp.shard(given.hidden, 1), sp.shard(weight(case.length), 1), context)
    for x in summed:
        dist.all_reduce(x)
    return [*(sp.unshard(x, 1, length=case.length) for x in (out, grad)), *summed]


def check(name: str, case: Case, *, threads: bool = True) -> None:
    given = given_of(name, case)
    expected = step(given, given.hidden, weight(case.length), Context.alone(case.length, case.documents))
    each = [given_of(name, case) for _ in range(case.world)]
    for rank, found in enumerate(run_ranks(case.world, spread, each, case, threads=threads)):
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            error = float((one - other).abs().max() / other.abs().max().clamp(min=1.0))
            assert error <= 1e-9, f"result {number} of {name} is off by {error:.1e} on rank {rank}"


PACKED = (0, 1, 9, 9, 12, 21)
# The last ones have shards, or chunks, shorter than the convolution; an uneven cut; ranks of a chunk without tokens.
SAMPLE = [
    Case(2, "zigzag", 21, PACKED),
    Case(3, "contiguous", 22, None, "ring"),
    Case(4, "zigzag", 9, (0, 2, 9), "pipeline:slices=2"),
]


@pytest.mark.parametrize("case", SAMPLE, ids=str)
@pytest.mark.parametrize("name", ["gated_deltanet", "kda", "hgrn", "gla"])
def test_every_gradient_on_every_rank(name, case):
    check(name, case)


def test_processes():
    check("gated_deltanet", Case(2, "zigzag", 150, (0, 70, 150)), threads=False)


@pytest.mark.slow
@pytest.mark.parametrize("route", ["allgather", "ring", "pipeline:slices=2"])
@pytest.mark.parametrize("packed", [False, True], ids=["whole", "packed"])
@pytest.mark.parametrize("length", [5, 9, 24, 150])
@pytest.mark.parametrize("layout", ["contiguous", "zigzag", "balanced"])
@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("name", MIXERS)
def test_sweep(name, world, layout, length, packed, route):
    documents = (0, 1, length // 2, length // 2, length // 2 + 1, length) if packed else None
    check(name, Case(world, layout, length, documents, route))


def striped(rank: int) -> None:
    Context.spread(SequenceParallel(layout="striped"), 16)


def test_layouts_without_runs_are_refused():
    for text in refusals(2, striped, threads=True):
        assert "layout 'striped' neighbours lie on different ranks: use layout='zigzag'" in text
