"""What mixing multiplies, against what torch counts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ringattn.layers.linear import pieces
from ringattn.layers.linear.context import Context
from ringattn.layers.linear.mixers import MIXERS
from ringattn.layers.linear.mixers.mixer import MixerSizes
from ringattn.planner.mixers import MIXER_NAMES, PIECE, LinearSizes

# The first piece of a text has no state to read, and the last none to leave.
TOKENS = 16 * PIECE


def test_the_names_and_the_piece_are_those_of_the_layers():
    assert tuple(MIXERS) == MIXER_NAMES
    assert PIECE == pieces.PIECE


@pytest.mark.parametrize("mixer", MIXER_NAMES)
def test_products_are_those_that_torch_counts(mixer):
    """A layer alone: its maps, two FLOP a weight and token, and its mixing; torch counts no triangular solve."""
    heads, key_dim, value_dim = (1, 1, 24) if mixer == "hgrn" else (2, 16, 24)
    sizes = {"hidden_size": 32, "heads": heads, "key_dim": key_dim, "value_dim": value_dim}
    linear = LinearSizes(mixer=mixer, **sizes)
    layer = MIXERS[mixer](MixerSizes(**sizes))
    hidden = torch.randn(1, TOKENS, 32, requires_grad=True)
    counted = []
    with FlopCounterMode(display=False) as forward:
        out = layer(hidden, context=Context.alone(TOKENS))
    counted.append(forward.get_total_flops())
    with FlopCounterMode(display=False) as backward:
        out.sum().backward()
    counted.append(backward.get_total_flops())
    maps = 2 * sum(weight.size for weight in linear.weights() if weight.rows > 1)
    solve = heads * PIECE * (key_dim + value_dim) if linear.delta else 0
    mixing = linear.mixing_flops(spread=False)
    # The backward's solve is one solve and one whole product.
    solves = solve, solve
    for number, (times, found) in enumerate(zip((1, 2), counted)):
        assert found / TOKENS == pytest.approx(times * maps + mixing[number] - solves[number], rel=0.02)


def test_a_recurrence_by_hand():
    """Two heads of 3 x 5: a state of 30 numbers is written and read, two FLOP each; the delta rule reads it again."""
    plain = LinearSizes(mixer="gla", hidden_size=8, heads=2, key_dim=3, value_dim=5)
    delta = LinearSizes(mixer="kda", hidden_size=8, heads=2, key_dim=3, value_dim=5)
    assert (plain.recurrence_flops(), delta.recurrence_flops()) == (120, 180)
