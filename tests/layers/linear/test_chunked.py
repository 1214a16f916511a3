"""The chunked form is the recurrence, out and every gradient, whatever the decay, the cut and the documents."""

import itertools

import pytest
import torch
from torch import Tensor

from ringattn.layers.linear.channels import channels
from ringattn.layers.linear.chunked import chunked
from ringattn.layers.linear.effect import Effect, apply
from ringattn.layers.linear.pieces import make_pieces, starts_in
from ringattn.layers.linear.recurrence import recurrence

B, H, DK, DV = 2, 2, 4, 3
CPU = torch.device("cpu")
VARIANTS = [(decay, delta) for decay in ("none", "scalar", "channel") for delta in (False, True)]


def inputs(length: int, decay: str, delta: bool, *, strength: float = 1.0) -> dict[str, Tensor | None]:
    torch.manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(B, length, H, *shape, dtype=torch.float64)

    key = normal(DK)
    return {
        "query": normal(DK),
        "key": torch.nn.functional.normalize(key, dim=-1) if delta else key,
        "value": normal(DV),
        "log_decay": {
            "none": None,
            "scalar": -strength * normal().abs(),
            "channel": -strength * normal(DK).abs(),
        }[decay],
        "beta": normal().sigmoid() * 2 if delta else None,
        "initial_state": torch.randn(B, H, DK, DV, dtype=torch.float64),
    }


def results(function, given: dict[str, Tensor | None]) -> list[Tensor]:
    """out, the last state, and the gradient of each input."""
    given = {name: x if x is None else x.clone().requires_grad_() for name, x in given.items()}
    out, state = function(**given)
    torch.manual_seed(1)
    weights = [torch.randn(x.shape, dtype=torch.float64).to(x.dtype) for x in (out, state)]
    ((out * weights[0]).sum() + (state * weights[1]).sum()).backward()
    leaves = [x for x in given.values() if x is not None]
    return [out, state, *(torch.zeros_like(x) if x.grad is None else x.grad for x in leaves)]


def in_pieces(documents: tuple[int, ...] | None = None, size: int = 8):
    def function(query, key, value, **rest):
        pieces = make_pieces((range(query.shape[1]),), documents, CPU, size)
        return chunked(query, key, value, pieces, scale=0.7, **rest)

    return function


def by_token(documents: tuple[int, ...] | None = None):
    def function(query, key, value, **rest):
        starts = set(starts_in(documents, [range(query.shape[1])]).tolist())
        return recurrence(query, key, value, scale=0.7, starts=starts, **rest)

    return function


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("documents", [None, (0, 3, 3, 9, 16, 17, 21)], ids=["whole", "packed"])
@pytest.mark.parametrize(("decay", "delta"), VARIANTS)
def test_pieces_are_the_recurrence(decay, delta, documents):
    given = inputs(21, decay, delta)
    assert_same(results(in_pieces(documents), given), results(by_token(documents), given))


@pytest.mark.parametrize("length", [0, 1, 2, 8, 9])
@pytest.mark.parametrize(("decay", "delta"), [("none", False), ("channel", True)])
def test_any_length(length, decay, delta):
    given = inputs(length, decay, delta)
    assert_same(results(in_pieces(), given), results(by_token(), given))


@pytest.mark.parametrize(("decay", "delta"), [variant for variant in VARIANTS if variant[0] != "none"])
def test_strong_decays_neither_overflow_nor_lose_digits(decay, delta):
    """A decay of exp(-30) a token: one exponential over a piece of 64 would be 10^834."""
    given = inputs(70, decay, delta, strength=30.0)
    narrow = {name: None if x is None else x.float() for name, x in given.items()}
    exact = results(by_token(), {name: None if x is None else x.double() for name, x in narrow.items()})
    for one, other in zip(results(in_pieces(size=64), narrow), exact, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("decay", "delta"), VARIANTS)
def test_runs_joined_by_their_effects_are_the_whole(decay, delta):
    """Runs cut anywhere, one of them empty, each with the state that the effects before it make."""
    documents, given = (0, 5, 12, 21), inputs(21, decay, delta)
    runs = (range(0, 7), range(7, 7), range(7, 18), range(18, 21))
    initial = given.pop("initial_state")

    def joined(query, key, value, **rest):
        def entering(effects: Effect) -> Tensor:
            states = [initial]
            for transition, addition in zip(effects.transition, effects.addition, strict=True):
                states.append(apply(Effect(transition, addition), states[-1]))
            return torch.stack(states[:-1])

        pieces = make_pieces(runs, documents, CPU, 4)
        return chunked(query, key, value, pieces, scale=0.7, entering=entering, **rest)

    def whole(**rest):
        return by_token(documents)(initial_state=initial, **rest)

    assert_same(results(joined, given), results(whole, given))


@pytest.mark.parametrize("documents", [None, (0, 3, 16, 17, 21)], ids=["whole", "packed"])
def test_channels_are_the_recurrence_of_one_number_each(documents):
    torch.manual_seed(0)
    x, log_decay = torch.randn(B, 21, 5, dtype=torch.float64), -torch.rand(B, 21, 5, dtype=torch.float64) * 20
    given = {"x": x, "log_decay": log_decay, "initial_state": torch.randn(B, 5, dtype=torch.float64)}

    def fast(x, log_decay, initial_state):
        pieces = make_pieces((range(x.shape[1]),), documents, CPU, 8)
        return channels(x, log_decay, pieces, initial_state=initial_state)

    def slow(x, log_decay, initial_state):
        one = torch.ones(*x.shape, 1, dtype=torch.float64)
        starts = set(starts_in(documents, [range(21)]).tolist())
        out, state = recurrence(
            one, one, x[..., None], log_decay=log_decay, initial_state=initial_state[..., None, None], starts=starts
        )
        return out[..., 0], state[..., 0, 0]

    assert_same(results(fast, given), results(slow, given))


def test_masks_of_a_piece_by_eye():
    pieces = make_pieces((range(2, 8),), (0, 4, 9), CPU, 4)
    assert pieces.starts.tolist() == [[False, False, True, False], [False] * 4]
    assert pieces.enters.tolist() == [[True, True, False, False], [True] * 4]
    assert pieces.leaves.tolist() == [[False, False, True, True], [True] * 4]
    assert pieces.keeps.tolist() == [False, True]


def test_cut_and_join():
    x = torch.arange(2 * 9 * 3).view(2, 9, 3)
    for runs, size in itertools.product([(range(9),), (range(4), range(10, 15)), (range(0), range(9))], (1, 2, 8)):
        pieces = make_pieces(runs, None, CPU, size)
        assert torch.equal(pieces.join(pieces.cut(x)), x)
