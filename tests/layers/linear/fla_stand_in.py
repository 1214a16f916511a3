"""flash-linear-attention's functions on a CPU: their signatures, layouts and refusals, and behind them the recurrence.

`test_fla.py` holds the signatures to those of the package where it is installed, and `interpreted_fla.py` its kernels
to the same recurrence.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from ringattn.kernels.kernel import sum_dtype
from ringattn.layers.linear.kernels import Family
from ringattn.layers.linear.recurrence import recurrence


def chunk_simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    assert g is None or g.shape == q.shape[:3]
    return _sequences(q, k, v, g, None, scale, initial_state, output_final_state, cu_seqlens)


def chunk_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    assert g.shape == q.shape
    return _sequences(q, k, v, g, None, scale, initial_state, output_final_state, cu_seqlens)


def chunk_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    assert beta.shape == q.shape[:3] and q.dtype != torch.float32
    return _sequences(q, k, v, None, beta, scale, initial_state, output_final_state, cu_seqlens)


def chunk_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    assert g.shape == beta.shape == q.shape[:3]
    return _sequences(q, k, v, g, beta, scale, initial_state, output_final_state, cu_seqlens)


def chunk_kda(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    assert g.shape == q.shape and beta.shape == q.shape[:3]
    return _sequences(q, k, v, g, beta, scale, initial_state, output_final_state, cu_seqlens)


def chunk_hgrn(
    x: Tensor, g: Tensor, initial_state: Tensor | None = None, output_final_state: bool = False
) -> tuple[Tensor, Tensor | None]:
    """fla's gives a first state no gradient, and takes none of the last."""
    one = torch.ones_like(x)[..., None]
    first = None if initial_state is None else initial_state.detach()[..., None, None]
    out, last = recurrence(one, one, x[..., None], log_decay=g, scale=1.0, initial_state=first)
    return out[..., 0], last[..., 0, 0].detach() if output_final_state else None


FUNCTIONS = {
    Family.SIMPLE_GLA: chunk_simple_gla,
    Family.GLA: chunk_gla,
    Family.HGRN: chunk_hgrn,
    Family.DELTA_RULE: chunk_delta_rule,
    Family.GATED_DELTA_RULE: chunk_gated_delta_rule,
    Family.KDA: chunk_kda,
}


def _sequences(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    beta: Tensor | None,
    scale: float | None,
    initial_state: Tensor | None,
    output_final_state: bool,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """A row each, or one row cut at `cu_seqlens`; first and last states are of each sequence, in fp32 at least."""
    assert q.dtype == k.dtype == v.dtype
    wide = sum_dtype(v.dtype)
    assert all(x is None or x.dtype == wide for x in (initial_state, g, beta))
    if cu_seqlens is None:
        rows = [slice(row, row + 1) for row in range(len(q))]
        parts = [[None if x is None else x[row] for x in (q, k, v, g, beta)] for row in rows]
    else:
        assert len(q) == 1 and cu_seqlens.dtype == torch.int64
        bounds = cu_seqlens.tolist()
        assert bounds[0] == 0 and bounds[-1] == q.shape[1]
        spans = [slice(first, stop) for first, stop in pairwise(bounds)]
        assert all(span.start < span.stop for span in spans)
        parts = [[None if x is None else x[:, span] for x in (q, k, v, g, beta)] for span in spans]
    assert initial_state is None or initial_state.shape == (len(parts), *q.shape[2:], v.shape[-1])
    found = [
        recurrence(
            *(x.to(wide) for x in part[:3]),
            log_decay=part[3],
            beta=part[4],
            scale=scale,
            initial_state=None if initial_state is None else initial_state[number : number + 1],
        )
        for number, part in enumerate(parts)
    ]
    out = torch.cat([out for out, _ in found], dim=0 if cu_seqlens is None else 1).to(v.dtype)
    return out, torch.cat([last for _, last in found]) if output_final_state else None
