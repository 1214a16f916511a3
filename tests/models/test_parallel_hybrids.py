"""Hybrid models over ranks learn what they learn on one process, to 1e-9 in fp64, and write the same text."""

from __future__ import annotations

import copy

import pytest
import torch
from ranks import run_ranks
from test_parallel_models import Case, parallel_step
from tiny_hybrids import make_hybrid
from tiny_models import assert_same_step, make_tokens, plain_step
from torch import Tensor

import ringattn
from ringattn.layers.linear.mixers import MIXERS

LENGTH, PACKED = 37, (0, 1, 14, 14, 30, 37)


def check(mixer: str, case: Case, *, threads: bool = True, **changes) -> None:
    model, tokens = make_hybrid(mixer, **changes), make_tokens(1, LENGTH)
    models = [copy.deepcopy(model) for _ in range(case.world)]
    found = run_ranks(case.world, parallel_step, models, tokens, tokens, case, threads=threads)
    expected = plain_step(model, tokens, tokens, case.documents)
    for step in found:
        assert_same_step(step, expected, tolerance=1e-9)


@pytest.mark.parametrize("case", [
    Case(2, "tokenring", "zigzag", PACKED, checkpointing=True), Case(3, "ulysses", "contiguous"),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("mixer", ["gated_deltanet", "hgrn2"])
def test_every_gradient_on_every_rank(mixer, case):
    check(mixer, case)


def test_a_model_without_attention():
    check("kda", Case(2, "ring", "zigzag", checkpointing=True, keep_attention=False), pattern="pure")


def test_a_model_whose_layers_all_attend_takes_any_layout():
    check("gla", Case(2, "ring", "striped", PACKED), pattern="full")


def test_processes_whose_gradients_torch_averages():
    check("gated_deltanet", Case(2, "tokenring", "zigzag", data_parallel=True), threads=False, state_route="ring")


@pytest.mark.slow
@pytest.mark.parametrize("documents", [None, PACKED], ids=["whole", "packed"])
@pytest.mark.parametrize("layout", ["contiguous", "zigzag", "balanced"])
@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("mixer", MIXERS)
def test_sweep(mixer, world, layout, documents):
    check(mixer, Case(world, "ring", layout, documents))


def written(rank: int, models: list, prompt: Tensor, layout: str) -> Tensor:
    model = ringattn.parallelize(models[rank], ringattn.SequenceParallel(layout=layout))
    return ringattn.generate(model, prompt, max_new_tokens=8)


@pytest.mark.parametrize(("mixer", "layout", "tokens"), [
    ("gated_deltanet", "zigzag", 21), ("hgrn", "contiguous", 5), ("retnet", "zigzag", 2),
])  # fmt: skip
def test_ranks_write_what_one_process_writes(mixer, layout, tokens):
    model, prompt = make_hybrid(mixer), make_tokens(2, tokens)
    models = [copy.deepcopy(model) for _ in range(3)]
    model.set_attn_implementation("sdpa")
    expected = model.eval().generate(prompt, max_new_tokens=8, do_sample=False, eos_token_id=None)
    for found in run_ranks(3, written, models, prompt, layout, threads=True):
        assert torch.equal(found, expected)
