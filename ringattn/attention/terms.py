"""What the ranks of a call must say alike, in words that an error can show."""

from __future__ import annotations

import hashlib

from torch import Tensor

from ringattn.runtime.agreement import Terms
from ringattn.runtime.call import Call


def terms_of(call: Call, sinks: Tensor | None) -> Terms:
    """Of attention; kept with the call but for the sinks."""
    if not call.terms:
        problem, sizes = call.problem, call.problem.tensors
        call.terms = {
            "the schedule": call.names[0],
            "the backward's schedule": call.names[1],
            "the layout": f"{problem.query_layout.name} {digits(problem.query_layout.chunks)}",
            "the mask": f"{problem.mask.describe()} {digits(problem.mask)}",
            "the number of queries": str(problem.query_layout.length),
            "the number of keys": str(problem.key_layout.length),
            "the batch size": str(sizes.batch),
            "the heads and head size": f"{sizes.query_heads} over {sizes.key_heads}, {sizes.head_dim}",
            "the dtype": str(problem.dtype).removeprefix("torch."),
            "scale": str(problem.scale),
            "softcap": str(problem.softcap),
            "the kernel": call.kernel.name,
        }
    return {**call.terms, "sinks": "none" if sinks is None else "given"}


def words(x: Tensor, dim: int) -> str:
    """A tensor's shape but for `dim`, and its dtype."""
    shape = ["*" if d == dim else str(size) for d, size in enumerate(x.shape)]
    return f"[{', '.join(shape)}] {str(x.dtype).removeprefix('torch.')}"


def digits(value: object) -> str:
    """A few digits that differ where two values do, for those that are too long to show."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:8]
