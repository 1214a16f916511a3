"""Effects: affine maps of the state that compose as the stretches of tokens they stand for."""

import pytest
import torch

from ringattn.layers.linear.effect import Effect, apply, compose, identity_like

B, H, DK, DV = 2, 3, 4, 5
KINDS = {"scalar": (), "diagonal": (DK,), "dense": (DK, DK)}


def effect(kind: str) -> Effect:
    return Effect(torch.randn(B, H, *KINDS[kind], dtype=torch.float64), torch.randn(B, H, DK, DV, dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
def test_a_composition_is_one_after_the_other(kind):
    torch.manual_seed(0)
    first, then, state = effect(kind), effect(kind), torch.randn(B, H, DK, DV, dtype=torch.float64)
    torch.testing.assert_close(apply(compose(first, then), state), apply(then, apply(first, state)))


@pytest.mark.parametrize("kind", KINDS)
def test_no_tokens_change_nothing(kind):
    some = effect(kind)
    state = torch.randn(B, H, DK, DV, dtype=torch.float64)
    assert torch.equal(apply(identity_like(some), state), state)


def test_a_transition_of_zero_forgets():
    some = effect("dense")
    reset = Effect(torch.zeros_like(some.transition), some.addition)
    state = torch.randn(B, H, DK, DV, dtype=torch.float64)
    assert torch.equal(apply(reset, state), some.addition)
    assert torch.equal(compose(some, reset).addition, some.addition)


def test_shapes_of_no_kind_are_refused():
    with pytest.raises(ValueError, match=r"a transition is \[\.\.\., H\].*got \[2, 5\] beside \[2, 3, 4, 5\]"):
        Effect(torch.ones(2, 5), torch.ones(2, 3, 4, 5))
    with pytest.raises(ValueError, match="of one kind"):
        compose(effect("scalar"), effect("dense"))
