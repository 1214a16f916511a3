"""HGRN's recurrence, in which each channel is a state of one number: h_t = exp(g_t) h_{t-1} + x_t.

Gated recurrence of HGRN (arXiv 2311.04823, section 3.2) in three stages as `chunked`, with elementwise loops in place
of products of matrices: the tokens of a piece one after the other, for all pieces at the same time. Decays are
multiplied and never divided by, so any decay is safe, that of a reset (exactly 0) too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ringattn.kernels.kernel import sum_dtype
from ringattn.layers.linear.chunked import Entering, nothing_of
from ringattn.layers.linear.effect import Effect
from ringattn.layers.linear.pieces import Pieces


def channels(
    x: Tensor,
    log_decay: Tensor,
    pieces: Pieces,
    *,
    initial_state: Tensor | None = None,
    entering: Entering | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns (h [B, n, D] in the dtype of x, the state after the last token [B, D], fp32 or fp64).

    x, log_decay: [B, n, D]; initial_state: [B, D]. entering: asked for the state that enters each run, with the
    channels as heads: [runs, B, D, 1, 1].
    """
    wide = sum_dtype(x.dtype)
    decay = pieces.cut(log_decay.to(wide)).exp()
    if pieces.starts is not None:
        decay = decay.masked_fill(pieces.starts[None, :, :, None], 0.0)
    # One token of every piece [B, N, D] after the other.
    own: list[Tensor] = []
    through: list[Tensor] = []
    for by, add in zip(decay.unbind(2), pieces.cut(x.to(wide)).unbind(2), strict=True):
        own.append(torch.addcmul(add, by, own[-1]) if own else add)
        through.append(by * through[-1] if through else by)
    zeros = own[0].new_zeros(x.shape[0], x.shape[2])
    leaving = list(zip(pieces.runs, through[-1].unbind(1), own[-1].unbind(1), strict=True))
    runs = len(pieces.lengths)
    if entering is not None:
        transitions, additions = [torch.ones_like(zeros)] * runs, [zeros] * runs
        for run, by, add in leaving:
            transitions[run], additions[run] = by * transitions[run], torch.addcmul(add, by, additions[run])
        effect = Effect(torch.stack(transitions), torch.stack(additions)[..., None, None])
        finals = list(entering(effect)[..., 0, 0].unbind(0))
    else:
        finals = [zeros if initial_state is None else initial_state.to(wide)]
    states = []
    for run, by, add in leaving:
        states.append(finals[run])
        finals[run] = torch.addcmul(add, by, finals[run])
    if not states:
        return nothing_of(x, finals), finals[pieces.last_run]
    state = torch.stack(states, dim=1)
    out = torch.stack([torch.addcmul(h, by, state) for h, by in zip(own, through, strict=True)], dim=2)
    return pieces.join(out).to(x.dtype), finals[pieces.last_run]
