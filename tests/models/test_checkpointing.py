"""Activation checkpointing that keeps attention: what is sent, what is computed, and what stays in memory."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ranks import run_ranks
from tiny_models import make_model, make_tokens
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import ringattn
from ringattn.models.checkpointing import keeping_attention
from ringattn.runtime.kept import Kept

LENGTH = 24
Region = Callable[[Tensor], Tensor]


def traffic(rank: int, models: list[Any], tokens: Tensor, checkpointing: bool, keep: bool) -> list[tuple[int, int]]:
    """Bytes and messages that this rank sent in the forward, and in the backward."""
    sp = ringattn.SequenceParallel(schedule="tokenring")
    model = ringattn.parallelize(models[rank], sp, gradient_checkpointing=checkpointing, keep_attention=keep)
    loss = model(input_ids=tokens, labels=tokens).loss
    forward = sp.counter.sent_bytes, sp.counter.sent_messages
    loss.backward()
    return [forward, (sp.counter.sent_bytes - forward[0], sp.counter.sent_messages - forward[1])]


def test_keeping_attention_sends_nothing_again() -> None:
    def run(checkpointing: bool, keep: bool) -> list[list[tuple[int, int]]]:
        models = [make_model("llama") for _ in range(3)]
        return run_ranks(3, traffic, models, make_tokens(1, LENGTH), checkpointing, keep, threads=True)

    plain, kept, dropped = run(False, True), run(True, True), run(True, False)
    assert kept == plain
    for (forward, backward), (forward_again, twice) in zip(plain, dropped):
        assert forward_again == forward
        assert twice == (backward[0] + forward[0], backward[1] + forward[1])


class Attentions:
    """A region of several attention calls on one rank, and the number of times that attention was computed."""

    def __init__(self, sp: ringattn.SequenceParallel, calls: int = 3) -> None:
        self.sp, self.calls = sp, calls

    def __call__(self, x: Tensor) -> Tensor:
        for _ in range(self.calls):
            x = x + self.sp.attention(x.sin(), x.cos(), x)
        return x * x


@pytest.fixture
def sp(monkeypatch: pytest.MonkeyPatch) -> ringattn.SequenceParallel:
    sp = ringattn.SequenceParallel()
    sp.runs = []  # type: ignore[attr-defined]
    run = sp._run

    def counted(plan: Any, call: Any, *rest: Any) -> Any:
        sp.runs.append("forward" if plan is call.forward_plan else "backward")  # type: ignore[attr-defined]
        return run(plan, call, *rest)

    monkeypatch.setattr(sp, "_run", counted)
    return sp


def make_input() -> Tensor:
    random = torch.Generator().manual_seed(1)
    return torch.randn(1, 10, 2, 4, generator=random, dtype=torch.float64).requires_grad_()


def gradient(region: Region, x: Tensor) -> Tensor:
    (grad,) = torch.autograd.grad(region(x).sum(), x)
    return grad


def kept(region: Region, sp: ringattn.SequenceParallel) -> Region:
    return lambda x: checkpoint(region, x, use_reentrant=False, context_fn=keeping_attention(sp))


def test_a_region_of_several_calls_computes_each_once(sp: Any) -> None:
    region, x = Attentions(sp), make_input()
    expected = gradient(region, x)
    sp.runs.clear()
    torch.testing.assert_close(gradient(kept(region, sp), x), expected)
    assert sp.runs == ["forward"] * 3 + ["backward"] * 3


def test_a_graph_that_is_retained_can_be_gone_through_twice(sp: Any) -> None:
    region, x = Attentions(sp), make_input()
    expected = gradient(region, x)
    sp.runs.clear()
    total = kept(region, sp)(x).sum()
    for _ in range(2):
        (grad,) = torch.autograd.grad(total, x, retain_graph=True)
        torch.testing.assert_close(grad, expected)
    assert sp.runs == ["forward"] * 3 + ["backward"] * 6


def test_recomputation_that_stops_early_starts_anew_the_next_time(sp: Any) -> None:
    region = Attentions(sp, calls=2)

    def ends_with_attention(x: Tensor) -> Tensor:
        first = region(x)
        with torch.no_grad():  # Nothing after this is needed by the backward: recomputation stops before it.
            sp.attention(x, x, x)
        return first

    x = make_input()
    expected = gradient(region, x)
    total = kept(ends_with_attention, sp)(x).sum()
    for _ in range(2):
        (grad,) = torch.autograd.grad(total, x, retain_graph=True)
        torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("inner_keeps", [True, False])
def test_regions_inside_one_another(sp: Any, inner_keeps: bool) -> None:
    region, x = Attentions(sp, calls=2), make_input()

    def inner(x: Tensor) -> Tensor:
        if inner_keeps:
            return kept(region, sp)(x)
        return checkpoint(region, x, use_reentrant=False)

    def outer(x: Tensor) -> Tensor:
        return inner(inner(x) / 10).sin()

    expected = gradient(lambda x: region(region(x) / 10).sin(), x)
    sp.runs.clear()
    torch.testing.assert_close(gradient(kept(outer, sp), x), expected)
    if inner_keeps:
        assert sp.runs == ["forward"] * 4 + ["backward"] * 4


def test_two_regions_at_once_keep_apart(sp: Any) -> None:
    x = make_input()
    one, two = kept(Attentions(sp, calls=1), sp), kept(Attentions(sp, calls=2), sp)
    expected = gradient(lambda x: Attentions(sp, calls=1)(x) + Attentions(sp, calls=2)(x.exp()), x)
    torch.testing.assert_close(gradient(lambda x: one(x) + two(x.exp()), x), expected)


def test_an_error_inside_a_region_ends_the_keeping(sp: Any) -> None:
    def fails(x: Tensor) -> Tensor:
        sp.attention(x, x, x)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        kept(fails, sp)(make_input())
    assert not sp._keeping


def test_what_is_kept_goes_with_the_graph(sp: Any) -> None:
    places: list[weakref.ref[Kept]] = []

    def watched() -> Any:
        contexts = keeping_attention(sp)()
        places.append(weakref.ref(contexts[0]._kept))
        return contexts

    x = make_input()
    out = checkpoint(Attentions(sp), x, use_reentrant=False, context_fn=watched)
    assert len(places[0]()._results) == 3
    del out
    gc.collect()
    assert places[0]() is None


def test_query_key_and_value_are_not_kept(sp: Any) -> None:
    """Of one region, only its input, and attention's out and lse, live until the backward."""
    alive: list[weakref.ref[Tensor]] = []

    def region(x: Tensor) -> Tensor:
        query, key, value = x.sin(), x.cos(), x.exp()
        alive.extend(weakref.ref(tensor) for tensor in (query, key, value))
        return sp.attention(query, key, value)

    out = kept(region, sp)(make_input())
    gc.collect()
    assert [tensor() for tensor in alive] == [None, None, None]
    del out


def test_another_call_in_the_recomputation_is_an_error(sp: Any) -> None:
    kept, x = Kept(), make_input()
    with sp.keeping(kept, replaying=False):
        sp.attention(x, x, x)
    with (
        sp.keeping(kept, replaying=True),
        pytest.raises(RuntimeError, match=r"must make the same attention calls .* call 1 with .* \(1, 9, 2, 4\)"),
    ):
        sp.attention(x[:, 1:], x, x)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
def test_trainers_own_checkpointing_can_keep_attention(sp: Any) -> None:
    model, tokens = ringattn.parallelize(make_model("llama"), sp), make_tokens(1, LENGTH)
    settings = {"use_reentrant": False, "context_fn": keeping_attention(sp)}
    for settings_of_run, forwards in ((settings, 2), (None, 4)):
        copied = copy.deepcopy(model)
        copied.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings_of_run)
        sp.runs.clear()
        copied(input_ids=tokens, labels=tokens).loss.backward()
        assert sp.runs.count("forward") == forwards
