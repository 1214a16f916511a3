"""Models whose sequence is spread over ranks compute what they compute on one process, to 1e-9 in fp64: the loss, the
logits, and the gradient of every parameter, on every rank."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks
from tiny_models import FAMILIES, Step, assert_same_step, gradients_of, make_model, make_tokens, plain_step
from torch import Tensor, nn

import ringattn

LENGTH = 37
PACKED = (0, 1, 14, 14, 30, 37)


@dataclass(frozen=True)
class Case:
    world: int = 2
    schedule: str = "tokenring"
    layout: str = "zigzag"
    documents: tuple[int, ...] | None = None
    checkpointing: bool = False
    keep_attention: bool = True
    data_parallel: bool = False

    def __str__(self) -> str:
        return f"{self.schedule}-{self.layout}-{self.world}"


def parallel_step(rank: int, models: list[Any], tokens: Tensor, labels: Tensor, case: Case) -> Step:
    sp = ringattn.SequenceParallel(schedule=case.schedule, layout=case.layout)
    model = ringattn.parallelize(
        models[rank], sp, gradient_checkpointing=case.checkpointing, keep_attention=case.keep_attention
    )
    callee = nn.parallel.DistributedDataParallel(model) if case.data_parallel else model
    outputs = callee(input_ids=tokens, labels=labels, documents=case.documents)
    outputs.loss.backward()
    loss, gradients = outputs.loss.detach().clone(), gradients_of(model)
    for tensor in (loss, *(() if case.data_parallel else gradients.values())):
        dist.all_reduce(tensor)
        tensor /= sp.world
    return Step(loss, gradients, sp.unshard(outputs.logits.detach(), 1, length=tokens.shape[1]))


def check(family: str, case: Case, *, batch: int = 1, labels: Tensor | None = None, threads: bool = True) -> None:
    model, tokens = make_model(family), make_tokens(batch, LENGTH)
    labels = tokens if labels is None else labels
    models = [copy.deepcopy(model) for _ in range(case.world)]
    found = run_ranks(case.world, parallel_step, models, tokens, labels, case, threads=threads)
    expected = plain_step(model, tokens, labels, case.documents)
    for step in found:
        assert_same_step(step, expected, tolerance=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", [Case(2, "tokenring", "zigzag"), Case(4, "ring", "striped")], ids=str)
def test_every_family_learns_what_one_process_does(family: str, case: Case) -> None:
    check(family, case)


@pytest.mark.parametrize("case", [Case(2, "ulysses", "contiguous"), Case(4, "usp", "balanced")], ids=str)
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_schedules_that_share_out_heads(family: str, case: Case) -> None:
    check(family, case)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_documents_are_read_one_by_one_and_checkpointing_changes_nothing(family: str) -> None:
    check(family, Case(4, "tokenring", "zigzag", PACKED, checkpointing=True))


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_checkpointing_without_keeping_attention_changes_nothing(family: str) -> None:
    check(family, Case(2, "tokenring", "zigzag", PACKED, checkpointing=True, keep_attention=False))


def test_ignored_labels_and_several_rows() -> None:
    labels = make_tokens(3, LENGTH)
    labels[0, :20] = -100
    labels[2, ::2] = -100
    check("llama", Case(4, "ring", "zigzag"), batch=3, labels=labels)


def test_a_rank_without_targets() -> None:
    labels = torch.full((1, LENGTH), -100)
    labels[0, 3] = 5
    check("llama", Case(4, "ring", "contiguous"), labels=labels)


@pytest.mark.parametrize("world", [2, 4])
def test_processes_whose_gradients_torch_averages(world: int) -> None:
    check("llama", Case(world, "tokenring", "zigzag", checkpointing=True, data_parallel=True), threads=False)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gemma2", "gpt_oss"])
@pytest.mark.parametrize("documents", [None, PACKED], ids=["whole", "packed"])
@pytest.mark.parametrize("layout", ["contiguous", "zigzag", "striped", "balanced"])
@pytest.mark.parametrize("schedule", [name for name in ringattn.schedules() if name != "grid"])
def test_sweep(family: str, documents: tuple[int, ...] | None, layout: str, schedule: str) -> None:
    check(family, Case(3, schedule, layout, documents))
