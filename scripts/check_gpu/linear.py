"""Every mixer and every linear attention, by each kernel that serves, against fp64.

The layers are of the sizes that their papers have for 256 channels, their weights rounded before they are compared; the
attentions are cut into runs as ranks hold them, with the states that the effects of the runs before make.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ringattn.layers.linear.attention import linear_attention, linear_channels
from ringattn.layers.linear.chunked import Entering
from ringattn.layers.linear.context import Context
from ringattn.layers.linear.effect import Effect, apply
from ringattn.layers.linear.kernels import Family, Request, fla_refusal
from ringattn.layers.linear.mixers import MIXERS
from ringattn.layers.linear.mixers.mixer import MixerSizes

LENGTH, HIDDEN = 300, 256
DOCUMENTS = {"whole": None, "packed": (0, 5, 70, 200, LENGTH)}
RUNS = (range(0, 130), range(130, 130), range(130, 200), range(200, LENGTH))
# Relative to the norm: sums of products of which each factor was rounded, one of them several times.
TOLERANCES = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
SIZES = {"heads": 2, "key_dim": 64, "value_dim": 128}


def linear_errors(device: torch.device) -> int:
    """Prints both tables; returns how many lines are past their tolerance."""
    dtypes = (torch.float32,) if device.type == "cpu" else (torch.float32, torch.bfloat16, torch.float16)
    wrong = 0
    print("\nmixer            kernel dtype      documents  out      dx       dweights")
    for name, dtype, documents in itertools.product(MIXERS, dtypes, DOCUMENTS):
        exact = _layer(name, torch.device("cpu"), dtype, "torch", documents, exact=True)
        kernels = dict(_mixer(name, "auto").kernels(dtype, device=str(device)))
        for kernel in ("fla", "torch"):
            label = f"{name:16} {kernel:6} {str(dtype)[6:]:10} {documents:10}"
            if kernels[kernel] in ("chosen", "serves"):
                wrong += _show(label, _layer(name, device, dtype, kernel, documents), exact, dtype)
            elif documents == "whole":
                print(label, kernels[kernel])
    print("\nattention        kernel dtype      documents  out      state    dq or dx, dk, dv, ddecay, dbeta")
    for family, dtype, documents in itertools.product(Family, dtypes, DOCUMENTS):
        if family is Family.HGRN and dtype != torch.float32:
            continue
        exact = _runs(family, torch.device("cpu"), dtype, "torch", documents, exact=True)
        for kernel in ("fla", "torch"):
            label = f"{family.value:16} {kernel:6} {str(dtype)[6:]:10} {documents:10}"
            request = Request(device, dtype, family, SIZES["key_dim"], SIZES["value_dim"])
            if kernel == "torch" or fla_refusal(request) is None:
                wrong += _show(label, _runs(family, device, dtype, kernel, documents), exact, dtype)
    return wrong


class _Joined(Context):
    """Runs of one process, each behind the state that the runs before it leave, as ranks hold them."""

    def entering(self) -> Entering:
        return _states


def _states(effects: Effect) -> Tensor:
    states = [torch.zeros_like(effects.addition[0])]
    for transition, addition in zip(effects.transition, effects.addition, strict=True):
        states.append(apply(Effect(transition, addition), states[-1]))
    return torch.stack(states[:-1])


def _mixer(name: str, kernel: str) -> Any:
    torch.manual_seed(0)
    heads, key_dim, value_dim = MIXERS[name].paper_sizes(HIDDEN)
    sizes = MixerSizes(hidden_size=HIDDEN, heads=heads, key_dim=key_dim, value_dim=value_dim, layers=4)
    return MIXERS[name](dataclasses.replace(sizes, kernel=kernel))


def _layer(
    name: str, device: torch.device, dtype: torch.dtype, kernel: str, documents: str, *, exact: bool = False
) -> list[Tensor]:
    mixer = _mixer(name, kernel).to(dtype)
    torch.manual_seed(1)
    hidden, weight = (torch.randn(2, LENGTH, HIDDEN).to(dtype) for _ in range(2))
    if exact:
        mixer, hidden, weight = mixer.double(), hidden.double(), weight.double()
    mixer, hidden, weight = mixer.to(device), hidden.to(device).requires_grad_(), weight.to(device)
    out = mixer(hidden, context=Context.alone(LENGTH, DOCUMENTS[documents]))
    (out * weight).double().sum().backward()
    weights = torch.cat([parameter.grad.flatten() for parameter in mixer.parameters()])
    return [out, hidden.grad, weights]


def _runs(
    family: Family, device: torch.device, dtype: torch.dtype, kernel: str, documents: str, *, exact: bool = False
) -> list[Tensor]:
    torch.manual_seed(2)
    heads, key_dim, value_dim = SIZES.values()
    context = _Joined(RUNS, DOCUMENTS[documents])
    if family is Family.HGRN:
        given = {"x": torch.randn(2, LENGTH, HIDDEN), "log_decay": -torch.rand(2, LENGTH, HIDDEN)}
    else:
        query, key = torch.randn(2, 2, LENGTH, heads, key_dim)
        given = {"query": query.to(dtype), "key": normalize(key, dim=-1).to(dtype)}
        given["value"] = torch.randn(2, LENGTH, heads, value_dim).to(dtype)
        if family is not Family.DELTA_RULE:
            rows = (key_dim,) if family in (Family.GLA, Family.KDA) else ()
            given["log_decay"] = -0.1 * torch.rand(2, LENGTH, heads, *rows)
        if family in (Family.DELTA_RULE, Family.GATED_DELTA_RULE, Family.KDA):
            given["beta"] = torch.rand(2, LENGTH, heads)
    given = {one: (x.double() if exact else x).to(device).requires_grad_() for one, x in given.items()}
    function: Any = linear_channels if family is Family.HGRN else linear_attention
    out, state = function(**given, context=context, kernel=kernel)
    torch.manual_seed(3)
    weights = [torch.randn(x.shape).to(dtype).to(x.dtype).to(device) for x in (out, state)]
    ((out * weights[0]).double().sum() + (state * weights[1]).double().sum()).backward()
    return [out, state, *(x.grad for x in given.values())]


def _show(label: str, found: list[Tensor], exact: list[Tensor], dtype: torch.dtype) -> int:
    errors = [
        float((one.detach().cpu().double() - other.detach()).norm() / other.detach().norm())
        for one, other in zip(found, exact, strict=True)
    ]
    bad = not max(errors) <= TOLERANCES[dtype]
    print(label, "  ".join(f"{error:.1e}" for error in errors), "   WRONG" if bad else "")
    return int(bad)
