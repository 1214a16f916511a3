"""Where a linear mixer starts that takes the place of a trained softmax attention.

Query, key, value and output maps are the attention's own (Mamba in the Llama, arXiv 2408.15237, section 3; LoLCATs,
arXiv 2410.10254, section 3.1), grouped keys and values repeated for each query head, so that head for head the mixer
asks, stores and writes what the attention did. What attention has no counterpart of starts so that the mixer is a plain
sum over the tokens before, the nearest of its kind to an attention's mean over them:

- memory is long: the decays are constants (no map of the token yet), of horizons spread evenly in the logarithm from 64
  tokens to the positions that the model was trained on, over heads, or over channels where each has a decay of its
  own. An attention looks at the near and at the far; a decay drawn at random, as for new models, forgets within tens of
  tokens in most heads.
- the delta rule's beta is 1/2 for every token, what a map of zeros gives: at 1 a key takes out all that its like has
  written, and the keys of an attention share a large part; at 0 nothing is written.
- the short convolution passes each token alone, and values pass no silu (`value_silu`), which would take away the sign.
- the output gate is 1 everywhere, by its bias (`gate_bias`) and a map of zeros: without a bias a map of zeros closes
  it, and a random one flips signs.
- the norm on a head's output, which an attention lacks, gives it the size of the attention's output. Where no
  data have been seen, that is estimated from the value map alone: an RMS-normed token has channels of the norm's own
  weights and independent signs, of which the value map makes channels of known size. A mean over many tokens is
  smaller, by a share that differs between heads: `_AVERAGED`, one for all, is meant to be near enough for the fit on
  text that follows.

A map of zeros learns at once, for its gradient does not depend on itself.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ringattn.layers.linear.convolution import ShortConvolution
from ringattn.layers.linear.mixers.gated_deltanet import GatedDeltaNet
from ringattn.layers.linear.mixers.gla import GLA
from ringattn.layers.linear.mixers.hgrn import HGRN
from ringattn.layers.linear.mixers.hgrn2 import HGRN2
from ringattn.layers.linear.mixers.kda import KDA
from ringattn.layers.linear.mixers.lightning import Lightning
from ringattn.layers.linear.mixers.mixer import GatedNorm, Mixer, Norm

SHORTEST = 64
# Chosen on two layers of SmolLM2-135M and 256 tokens: of 1, 0.3 and 0.1 the one that starts below an error of 1.
_AVERAGED = 0.1
_OPEN_SILU = 1.2784645427610738  # silu of it is 1
_OPEN_SIGMOID = 3.0


@torch.no_grad()
def start_from_attention(mixer: Mixer, attention: nn.Module, *, norm: Tensor, groups: int, longest: int) -> None:
    """Set the mixer's weights in place; it has as many heads as the attention queries, of the same size.

    attention: has q_proj, k_proj, v_proj and o_proj. norm: [hidden size], the weights of the norm before it. groups:
    query heads to a key and value head. longest: tokens, the longest horizon.
    """
    dim = mixer.sizes.value_dim if not isinstance(mixer, HGRN) else mixer.sizes.values
    value = _repeated(_weight(attention, "v_proj"), groups, attention)
    for name, weight in (
        ("q_proj", _weight(attention, "q_proj")),
        ("k_proj", _repeated(_weight(attention, "k_proj"), groups, attention)),
        ("i_proj" if isinstance(mixer, HGRN | HGRN2) else "v_proj", value),
        ("o_proj", _weight(attention, "o_proj")),
    ):
        target = getattr(mixer, name, None)
        if target is not None:
            target.weight.copy_(weight)
    for module in mixer.modules():
        if isinstance(module, ShortConvolution):
            module.weight.zero_()
            module.weight[..., -1] = 1.0
    if (beta := getattr(mixer, "b_proj", None)) is not None:
        beta.weight.zero_()
    _start_decay(mixer, longest)
    # [heads, channels of a value]: how large the attention's output is in each channel, about.
    size = _AVERAGED * (value.double() * norm.double()).square().sum(1).sqrt().view(-1, dim)
    _start_gate(mixer, size)


def horizons(count: int, longest: int) -> Tensor:
    """float64 [count]: tokens after which a decay has fallen to 1/e, evenly in the logarithm up to `longest`."""
    first = math.log(min(SHORTEST, longest))
    return torch.linspace(math.log(longest), first, count, dtype=torch.float64).exp().flip(0)


def _start_decay(mixer: Mixer, longest: int) -> None:
    """A decay of 1/e over each horizon. RetNet's and lightning's are fixed; HGRN's and HGRN-2's keep their own start,
    with lower bounds that rise with the layers, for their forget gate is the key as well."""
    heads, keys = mixer.sizes.heads, mixer.sizes.key_dim
    if isinstance(mixer, GatedDeltaNet):
        mixer.a_proj.weight.zero_()
        mixer.log_rate.zero_()
        # softplus of the bias is 1 / horizon.
        mixer.step_bias.copy_(torch.log(torch.expm1(1 / horizons(heads, longest))))
    elif isinstance(mixer, KDA):
        mixer.f_up.weight.zero_()
        mixer.log_rate.zero_()
        mixer.step_bias.copy_(torch.log(torch.expm1(1 / horizons(keys, longest))).repeat(heads))
    elif isinstance(mixer, GLA):
        mixer.decay_up.weight.zero_()
        # The sixteenth part of log sigmoid(bias) is -1 / horizon.
        assert mixer.decay_up.bias is not None
        mixer.decay_up.bias.copy_(-torch.log(torch.expm1(16 / horizons(keys, longest))).repeat(heads))


def _start_gate(mixer: Mixer, size: Tensor) -> None:
    """Gates to 1 and the norm's weights to `size`."""
    if isinstance(mixer, Lightning):
        # Its norm has no weights, and its gate no activation: the gate's bias is the size.
        assert mixer.u_proj.bias is not None
        mixer.u_proj.weight.zero_()
        mixer.u_proj.bias.copy_(size.flatten())
        return
    opened = 1.0
    if isinstance(mixer, KDA):
        mixer.g_up.weight.zero_()
        assert mixer.g_up.bias is not None
        mixer.g_up.bias.fill_(_OPEN_SIGMOID)
        opened = torch.sigmoid(torch.tensor(_OPEN_SIGMOID)).item()
    elif (gate := getattr(mixer, "g_proj", None)) is not None:
        gate.weight.zero_()
        gate.bias.fill_(_OPEN_SILU)
    norm = getattr(mixer, "norm", None)
    assert isinstance(norm, Norm | GatedNorm)
    one_for_all = norm.weight.numel() == size.numel()
    norm.weight.copy_((size.flatten() if one_for_all else size.square().mean(0).sqrt()) / opened)


def _weight(attention: nn.Module, name: str) -> Tensor:
    weight: Tensor = getattr(attention, name).weight
    return weight


def _repeated(weight: Tensor, groups: int, attention: nn.Module) -> Tensor:
    """[key heads x d, D] -> [query heads x d, D], each head's rows for every query head that shares it."""
    dim = int(attention.head_dim)  # type: ignore[arg-type]
    return weight.unflatten(0, (-1, dim)).repeat_interleave(groups, dim=0).flatten(0, 1)
