"""Who computes a linear attention: kernels by name, what each can't do, and the choice of one for a call.

`fla` is flash-linear-attention's Triton (`ringattn.layers.linear.fla`), for GPUs; `torch` the form in pieces, in the
operators of torch (`chunked`, `channels`), for anything; `recurrent` the formula token by token (`recurrence`), for a
process alone, which is there to be compared with and never chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch
from packaging.version import Version

from ringattn.sequence.suggest import suggest
from ringattn.settings.hybrid import LINEAR_KERNELS

KERNELS = (*LINEAR_KERNELS, "recurrent")

# 0.5.2 can't be imported beside triton 3.9.
_OLDEST = "0.6.0"
# chunk_gated_delta_rule_fwd_h and chunk_kda have one tile of key channels.
_LARGEST_KEY = 256


class Family(Enum):
    """Linear attentions by decay and by what they write; the values are fla's names for them."""

    SIMPLE_GLA = "simple_gla"  # no decay, or a number a head: RetNet, Lightning
    GLA = "gla"  # a number a key channel: GLA, HGRN-2
    HGRN = "hgrn"  # a state of one number a channel
    DELTA_RULE = "delta_rule"
    GATED_DELTA_RULE = "gated_delta_rule"  # the delta rule under a number a head
    KDA = "kda"  # under a number a key channel


_DELTA = (Family.DELTA_RULE, Family.GATED_DELTA_RULE, Family.KDA)
# Their gradients pass through fla's chunk_bwd_dqkwg with decays.
_SCALAR_DECAY = (Family.SIMPLE_GLA, Family.GATED_DELTA_RULE)


@dataclass(frozen=True)
class Request:
    """What a call asks of a kernel, to choose one by. dtype: of the value. key_dim, value_dim: of a head; of HGRN 1."""

    device: torch.device
    dtype: torch.dtype
    family: Family
    key_dim: int
    value_dim: int


def family_of(decay_dims: int, *, delta: bool) -> Family:
    """decay_dims: of the log decay, 3 for [B, n, H] and 4 for [B, n, H, dk]; 0 for none."""
    if delta:
        return {0: Family.DELTA_RULE, 3: Family.GATED_DELTA_RULE}.get(decay_dims, Family.KDA)
    return Family.GLA if decay_dims == 4 else Family.SIMPLE_GLA


def choose_kernel(name: str, request: Request) -> str:
    """The kernel called `name`, or for `auto` the first that serves `request`; never `auto`.

    ValueError where the name is unknown, or that kernel can't serve the request; the text says why.
    """
    check_name(name)
    if name == "auto":
        return "torch" if fla_refusal(request) else "fla"
    refusal = _refusal(name, request)
    if refusal:
        raise ValueError(f"kernel={name!r} {refusal}: use kernel='torch', which runs on any device, or 'auto'")
    return name


def explain_kernels(request: Request, name: str = "auto") -> list[tuple[str, str]]:
    """Each kernel with why it can't serve `request`, or `chosen` by `name`, or `serves`; in the order of preference."""
    chosen = choose_kernel(name, request) if name == "auto" else name
    return [
        (one, _refusal(one, request) or ("chosen" if one == chosen else "serves")) for one in KERNELS if one != "auto"
    ]


def check_name(name: str) -> None:
    """Raise ValueError where there is no such kernel."""
    if name not in KERNELS:
        raise ValueError(f"unknown kernel {name!r}{suggest(name, KERNELS)}; there are {', '.join(KERNELS)}")


def check_kernel(name: str, family: Family | None = None, *, key_dim: int = 0, value_dim: int = 0) -> None:
    """What can be said before there are tensors: ValueError where there is no such kernel, or it can't serve here, or
    not these sizes."""
    check_name(name)
    if name == "recurrent" and family is Family.HGRN:
        raise ValueError(f"HGRN is computed in pieces alone, got kernel={name!r}: use 'auto'")
    if name != "fla":
        return
    refusal = absence()
    if refusal is None and not torch.cuda.is_available():
        refusal = "runs on a CUDA device, and there is none here"
    if refusal is None and family is not None:
        refusal = _of_sizes(family, key_dim, value_dim) or _failure(family)
    if refusal:
        raise ValueError(f"kernel={name!r} {refusal}: use kernel='torch', which runs on any device, or 'auto'")


@lru_cache(maxsize=256)
def fla_refusal(request: Request) -> str | None:
    """Why flash-linear-attention can't serve `request`, or None where it can."""
    if request.device.type != "cuda":
        return f"runs on a CUDA device, and the tensors are on {request.device.type}"
    refusal = absence() or _of_dtype(request) or _of_sizes(request.family, request.key_dim, request.value_dim)
    return refusal or _of_device(request) or _failure(request.family)


def absence() -> str | None:
    """What fla needs that is not here, or None where all is."""
    try:
        found = version("fla-core")
    except PackageNotFoundError:
        return "needs the package flash-linear-attention, which is not installed (pip install 'ringattn[fla]')"
    if Version(found) < Version(_OLDEST):
        return f"needs fla-core {_OLDEST} or later, and {found} is installed"
    return None if find_spec("triton") else "needs the package triton, which is not installed"


def _failure(family: Family) -> str | None:
    """What importing the family's function ends with, None where it works."""
    try:
        import_module(f"fla.ops.{family.value}.chunk")
    # Whatever fla and triton of different years say of each other.
    except Exception as error:
        return f"can't be imported here ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
    return None


def _refusal(name: str, request: Request) -> str | None:
    if name == "recurrent" and request.family is Family.HGRN:
        return "is of states that are matrices, and HGRN's are numbers"
    return fla_refusal(request) if name == "fla" else None


def _of_dtype(request: Request) -> str | None:
    # HGRN's has no products of matrices; in the others fp32 would be multiplied in TF32, 10 bits of it.
    served = (torch.float32,) if request.family is Family.HGRN else (torch.float16, torch.bfloat16)
    if request.dtype in served:
        return None
    names = " and ".join(str(dtype).removeprefix("torch.") for dtype in served)
    return f"takes {names}, and the tensors are {str(request.dtype).removeprefix('torch.')}"


def _of_sizes(family: Family, key_dim: int, value_dim: int) -> str | None:
    if family is Family.HGRN:
        return None
    if key_dim % 2 or value_dim % 2:
        return f"takes heads of even key and value channels, got {key_dim} and {value_dim}"
    if family in _DELTA and key_dim > _LARGEST_KEY:
        return f"takes key heads of up to {_LARGEST_KEY} channels under a delta rule, got {key_dim}"
    return None


def _of_device(request: Request) -> str | None:
    """A fault that fla itself ends a backward for (its issue 640): better known before the forward."""
    if request.family not in _SCALAR_DECAY or torch.cuda.get_device_capability(request.device)[0] != 9:
        return None
    triton = version("triton")
    if Version("3.4.0") <= Version(triton) < Version("3.7.1"):
        return f"has wrong gradients of decays on Hopper GPUs with triton {triton}, and needs 3.7.1 or later there"
    return None
