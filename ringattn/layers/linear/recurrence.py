"""The recurrence that all linear attentions here are, token by token: what every faster form is tested against.

Per head, over a matrix state S [dk, dv] (row-major to the papers' S^T where they write v k^T):

    S   <- diag(exp(g_t)) S                      decay: none, a number, or one per channel of the key
    w_t  = v_t                                   plain: RetNet (arXiv 2307.08621, eq. 5), Lightning (2405.17381),
                                                 GLA (2312.06635, eq. 3), HGRN-2 (2404.07904, eq. 8)
    w_t  = beta_t (v_t - S^T k_t)                delta rule: DeltaNet (2406.06484, section 2.2), GatedDeltaNet
                                                 (2412.06464, eq. 10), KDA (2510.26692, eq. 1)
    S   <- S + k_t w_t^T
    o_t  = scale S^T q_t

so that with the delta rule S_t = (I - beta_t k_t k_t^T) diag(exp(g_t)) S_{t-1} + beta_t k_t v_t^T, KDA's order; with a
decay that is one number the order does not matter.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor


def recurrence(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    log_decay: Tensor | None = None,
    beta: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    starts: Collection[int] = (),
) -> tuple[Tensor, Tensor]:
    """Returns (out [B, n, H, dv], the state after the last token [B, H, dk, dv]).

    query, key: [B, n, H, dk]; value: [B, n, H, dv]; log_decay: [B, n, H] or [B, n, H, dk], at most 0; beta: [B, n, H].
    scale: 1/sqrt(dk) unless given. initial_state: [B, H, dk, dv], zeros unless given. starts: the tokens at which a
    document begins, and the state is forgotten.
    """
    batch, length, heads, rows = query.shape
    scale = rows**-0.5 if scale is None else scale
    state = query.new_zeros(batch, heads, rows, value.shape[-1]) if initial_state is None else initial_state
    outs = []
    for t in range(length):
        if t in starts:
            state = torch.zeros_like(state)
        if log_decay is not None:
            decay = log_decay[:, t].exp()
            state = (decay[..., None] if decay.ndim == 3 else decay[..., None, None]) * state
        write = value[:, t]
        if beta is not None:
            write = beta[:, t, :, None] * (write - torch.einsum("bhkv,bhk->bhv", state, key[:, t]))
        state = state + key[:, t, :, :, None] * write[:, :, None, :]
        outs.append(scale * torch.einsum("bhkv,bhk->bhv", state, query[:, t]))
    return (torch.stack(outs, dim=1) if outs else torch.zeros_like(value)), state
