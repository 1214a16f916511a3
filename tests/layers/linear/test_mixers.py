"""Mixers in one process: a sequence at once, by tokens, by documents, and by the recurrence are all the same."""

import dataclasses
import itertools

import pytest
import torch
from tiny_mixers import HIDDEN, make_bound, make_hidden, make_mixer
from torch import Tensor

from ringattn.layers.linear.attention import linear_attention
from ringattn.layers.linear.context import Context
from ringattn.layers.linear.mixers import MIXERS, mixer_class
from ringattn.layers.linear.mixers.hgrn import lower_bounds
from ringattn.layers.linear.mixers.lightning import log_forgetting
from ringattn.layers.linear.mixers.mixer import Mixer, MixerSizes
from ringattn.layers.linear.mixers.retnet import log_retention

LENGTH, PACKED = 19, (0, 2, 2, 9, 10, 19)


def run(mixer: Mixer, hidden: Tensor, context: Context) -> list[Tensor]:
    """out, and the gradients of the input and of each parameter."""
    hidden = hidden.clone().requires_grad_()
    mixer.zero_grad()
    out = mixer(hidden, context=context)
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    return [out.detach(), hidden.grad, *(parameter.grad for parameter in mixer.parameters())]


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", MIXERS)
def test_tokens_one_by_one_are_the_sequence_at_once(name):
    mixer, hidden = make_mixer(name), make_hidden(LENGTH)
    bound = make_bound(name, mixer)
    whole = mixer(hidden, context=dataclasses.replace(Context.alone(LENGTH), lower_bound=bound))
    out, state = mixer.extend(hidden[:, :6], lower_bound=bound)
    outs = [out]
    for t in range(6, LENGTH):
        before = state.bytes
        out, state = mixer.extend(hidden[:, t : t + 1], state, position=t, lower_bound=bound)
        assert state.bytes == before
        outs.append(out)
    torch.testing.assert_close(torch.cat(outs, dim=1), whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", MIXERS)
def test_packed_documents_are_read_one_by_one(name):
    mixer, hidden = make_mixer(name), make_hidden(LENGTH)
    bound = make_bound(name, mixer)

    def read(start: int, stop: int) -> Tensor:
        context = Context((range(start, stop),), lower_bound=bound)
        return mixer(hidden[:, start:stop], context=context)

    packed = mixer(hidden, context=dataclasses.replace(Context.alone(LENGTH, PACKED), lower_bound=bound))
    apart = [read(start, stop) for start, stop in itertools.pairwise(PACKED) if stop > start]
    torch.testing.assert_close(packed, torch.cat(apart, dim=1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["kda", "hgrn"])
def test_parts_of_a_long_text_are_the_whole(name, monkeypatch):
    mixer, hidden, context = make_mixer(name), make_hidden(LENGTH), Context.alone(LENGTH, PACKED)
    whole = run(mixer, hidden, context)
    monkeypatch.setattr("ringattn.layers.linear.mixers.mixer._PART", 4)
    assert_same(run(mixer, hidden, context), whole)


@pytest.mark.parametrize("name", [name for name in MIXERS if name != "hgrn"])
def test_every_gradient_is_the_recurrences(name):
    context = Context.alone(LENGTH, PACKED)
    slow, fast = make_mixer(name, kernel="recurrent"), make_mixer(name)
    assert_same(run(fast, make_hidden(LENGTH), context), run(slow, make_hidden(LENGTH), context))


def test_bfloat16_keeps_its_state_in_fp32():
    mixer = make_mixer("gated_deltanet").bfloat16()
    out, state = mixer.extend(make_hidden(LENGTH).bfloat16())
    assert (out.dtype, state.matrix.dtype, state.tails[0].dtype) == (torch.bfloat16, torch.float32, torch.bfloat16)


def test_decays_by_eye():
    assert log_retention(2).exp().tolist() == pytest.approx([1 - 1 / 32, 1 - 1 / 64])
    sizes = MixerSizes(hidden_size=4, heads=2, key_dim=2, value_dim=2, layer=1, layers=4)
    assert log_forgetting(sizes).tolist() == pytest.approx([-3.0, -6.0])
    bounds = lower_bounds(torch.zeros(4, 1))
    assert bounds[:, 0].tolist() == pytest.approx([0.0, 0.25, 0.5, 0.75])


@pytest.mark.parametrize(("hidden", "name", "expected"), [
    (1024, "gla", (4, 128, 256)), (2048, "gated_deltanet", (6, 256, 512)), (1024, "retnet", (4, 256, 512)),
    (1024, "deltanet", (8, 128, 128)), (1024, "hgrn", (1, 1, 1024)), (1024, "hgrn2", (8, 128, 128)),
])  # fmt: skip
def test_sizes_of_the_papers(hidden, name, expected):
    assert mixer_class(name).paper_sizes(hidden) == expected


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"unknown mixer 'gla2' \(did you mean 'gla'\?\); there are deltanet"):
        mixer_class("gla2")
    with pytest.raises(ValueError, match="heads is at least 1, got 0"):
        MixerSizes(hidden_size=4, heads=0, key_dim=2, value_dim=2)
    with pytest.raises(ValueError, match=r"unknown kernel 'tourch'.*did you mean 'torch'"):
        MixerSizes(hidden_size=4, heads=1, key_dim=2, value_dim=2, kernel="tourch")
    with pytest.raises(ValueError, match=r"kernel='fla' .*use kernel='torch', which runs on any device"):
        MixerSizes(hidden_size=4, heads=1, key_dim=2, value_dim=2, kernel="fla")
    with pytest.raises(ValueError, match="GLA has no short convolution, got conv_width=3"):
        mixer_class("gla")(MixerSizes(hidden_size=4, heads=1, key_dim=2, value_dim=2, conv_width=3))
    with pytest.raises(ValueError, match="HGRN is computed in pieces alone, got kernel='recurrent'"):
        make_mixer("hgrn", kernel="recurrent")
    with pytest.raises(ValueError, match="those of its context, 5 here"):
        make_mixer("gla")(make_hidden(4), context=Context.alone(5))
    with pytest.raises(ValueError, match="documents"):
        Context.alone(5, (0, 4))
    one = torch.zeros(1, 3, 2, 4)
    with pytest.raises(ValueError, match=r"beta must be \[B, n, H\], got \[1, 3\]"):
        linear_attention(one, one, one, context=Context.alone(3), beta=torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"takes query and key \[B, n, H, dk\]"):
        linear_attention(one, one[..., :2], one, context=Context.alone(3))
    assert make_mixer("gla").sizes.hidden_size == HIDDEN


def test_what_is_kept_from_inference_serves_training():
    hidden, context = make_hidden(53), Context.alone(53, (0, 21, 53))
    mixer = make_mixer("gated_deltanet")
    with torch.inference_mode():
        mixer(hidden, context=context)
    mixer(hidden.clone().requires_grad_(), context=context).sum().backward()
