"""Linear attention in pieces: products of matrices inside a piece, a scan of states between pieces.

Three stages, after the chunked form of GLA (arXiv 2312.06635, section 4.2), for the delta rule with the WY form
(DeltaNet, arXiv 2406.06484, section 3.2; with decay GatedDeltaNet, arXiv 2412.06464, section 3.3, and KDA, 2510.26692):

1. intra: for each piece by itself, its scores, what its tokens write from a zero state, and how it acts on a state.
   With G the running sum of log decays in the piece, and S the state that enters it, token i writes
       w_i = u_i - y_i^T S,   (1 + beta M) u = beta v,   (1 + beta M) y = beta (k exp(G)),
       M_ij = sum_d k_id k_jd exp(G_id - G_jd) below the diagonal
   (without the delta rule u = v and y = 0), and the piece leaves exp(G_last) S + sum_i (k_i exp(G_last - G_i)) w_i^T.
2. scan: the state that enters each piece, from those before it; `entering` puts in what lies on other ranks.
3. out_i = scale ((q_i exp(G_i))^T S + sum_{j <= i} (sum_d q_id k_jd exp(G_id - G_jd)) w_j^T).

No exponent is above 0, all sums are in fp32 at least, and memory grows with n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ringattn.kernels.kernel import sum_dtype
from ringattn.layers.linear.effect import Effect
from ringattn.layers.linear.pieces import Pieces
from ringattn.layers.linear.products import decayed_products

# From the effect of each run of this rank, the state that enters it.
Entering = Callable[[Effect], Tensor]


@dataclass(frozen=True)
class _Intra:
    """Of N pieces of c tokens, by themselves. All [N, B, H, ...].

    query: [c, dk], decayed from the entering state to each token; scores: [c, c].
    key: [c, dk], decayed from each token to the leaving state. total: log decay of a piece, [1] or [dk], or None.
    write: [c, dv], what is written from a zero state; reads: [c, dk], what less of a state (delta rule), or None.
    """

    query: Tensor
    scores: Tensor
    key: Tensor
    total: Tensor | None
    write: Tensor
    reads: Tensor | None


def chunked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pieces: Pieces,
    *,
    log_decay: Tensor | None,
    beta: Tensor | None,
    scale: float,
    initial_state: Tensor | None = None,
    entering: Entering | None = None,
) -> tuple[Tensor, Tensor]:
    """As `recurrence`, of tokens cut into `pieces`: (out [B, n, H, dv] in the value's dtype, the state after the last).

    entering: asked for the state that enters each run [runs, B, H, dk, dv]; `initial_state` enters the only run else.
    """
    wide = sum_dtype(value.dtype)
    batch, _, heads, rows = query.shape
    with torch.autocast(value.device.type, enabled=False):
        query, key, value_in = (_by_head(pieces.cut(x.to(wide))) for x in (query * scale, key, value))
        decay_in, beta_in = (None if x is None else _by_head(pieces.cut(x.to(wide))) for x in (log_decay, beta))
        intra = _intra(pieces, query, key, value_in, decay_in, beta_in)
        decay = _transitions(pieces, intra)
        zeros = intra.write.new_zeros((batch, heads, rows, value.shape[-1]))
        if entering is not None:
            before = entering(_effects(pieces, intra, decay, zeros)).unbind(0)
        else:
            before = (zeros if initial_state is None else initial_state.to(wide),)
        states, finals = _scan(pieces, intra, decay, intra.write, before)
        if not states:
            return nothing_of(value, before), finals[pieces.last_run]
        state = torch.stack(states)
        write = intra.write if intra.reads is None else intra.write - intra.reads @ state
        out = intra.query @ state + intra.scores @ write
        return pieces.join(out.permute(1, 0, 3, 2, 4)).to(value.dtype), finals[pieces.last_run]


def nothing_of(value: Tensor, before: Sequence[Tensor]) -> Tensor:
    """The output of no tokens. It hangs on what came from other ranks, whose backward waits for this rank's."""
    return torch.zeros_like(value) + 0 * before[-1].sum().to(value.dtype)


def _by_head(x: Tensor) -> Tensor:
    """[B, N, c, H, ...] -> [N, B, H, c, ...]."""
    return x.permute(1, 0, 3, 2, *range(4, x.ndim)).contiguous()


def _intra(
    pieces: Pieces, query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor | None, beta: Tensor | None
) -> _Intra:
    running = None if log_decay is None else log_decay.cumsum(3)
    against_key = _scores_against(key, running, pieces)
    reading, known, leaving, total = query, key, key, None
    if running is not None:
        by_row = running if running.ndim == key.ndim else running[..., None]
        total = by_row[:, :, :, -1]
        since, until = by_row.exp(), (total[:, :, :, None] - by_row).exp()
        reading, known, leaving = query * since, key * since, key * until
    if pieces.enters is not None and pieces.leaves is not None:
        enters, leaves = (mask[:, None, None, :, None] for mask in (pieces.enters, pieces.leaves))
        reading, known, leaving = reading * enters, known * enters, leaving * leaves
    scores = against_key(query)
    if beta is None:
        return _Intra(reading, scores, leaving, total, value, None)
    # The diagonal, and what is above it, are not read.
    mixed = against_key(key) * beta[..., None]
    wanted = torch.cat((value, known), dim=-1) * beta[..., None]
    solved = torch.linalg.solve_triangular(mixed, wanted, upper=False, unitriangular=True)
    write, reads = solved.split((value.shape[-1], key.shape[-1]), dim=-1)
    return _Intra(reading, scores, leaving, total, write, reads)


def _scores_against(key: Tensor, running: Tensor | None, pieces: Pieces) -> Callable[[Tensor], Tensor]:
    """From rows [N, B, H, c, dk] to their decayed products with the keys that each sees, [N, B, H, c, c]."""
    seen = torch.ones(pieces.size, pieces.size, dtype=torch.bool, device=key.device).tril()
    if pieces.same is not None:
        seen = (seen & pieces.same)[:, None, None]
    if running is None:
        return lambda rows: (rows @ key.mT).masked_fill(~seen, 0.0)
    if running.ndim == key.ndim:
        return lambda rows: decayed_products(rows, key, running).masked_fill(~seen, 0.0)
    # Masked before the exponential, which would overflow above the diagonal.
    falls = (running[..., :, None] - running[..., None, :]).masked_fill(~seen, float("-inf")).exp()
    return lambda rows: (rows @ key.mT) * falls


def _transitions(pieces: Pieces, intra: _Intra) -> Tensor:
    """What each piece leaves of a state but for what the delta rule takes, [N, B or 1, H or 1, dk or 1, 1]."""
    if intra.total is None:
        decay = intra.write.new_ones((len(pieces.runs), 1, 1, 1, 1))
    else:
        decay = intra.total.exp()[..., None]
    return decay if pieces.keeps is None else decay * pieces.keeps[:, None, None, None, None]


def _scan(
    pieces: Pieces, intra: _Intra, decay: Tensor, write: Tensor, before: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """(the state that enters each piece, the one that leaves each run); `before` enters the runs.

    write: [N, B, H, c, columns], and the states [B, H, dk, columns].
    """
    states, finals = [], list(before)
    if intra.reads is None:
        adds = (intra.key.mT @ write).unbind(0)
        for run, by, add in zip(pieces.runs, decay.unbind(0), adds, strict=True):
            states.append(finals[run])
            finals[run] = torch.addcmul(add, by, finals[run])
    else:
        columns = (intra.key, intra.reads, write)
        for run, by, key, reads, own in zip(pieces.runs, decay.unbind(0), *(x.unbind(0) for x in columns), strict=True):
            states.append(finals[run])
            finals[run] = torch.addcmul(key.mT @ (own - reads @ finals[run]), by, finals[run])
    return states, finals


def _effects(pieces: Pieces, intra: _Intra, decay: Tensor, zeros: Tensor) -> Effect:
    """The effect of each run: what its scan makes of no state and, with the delta rule, of each unit vector."""
    runs = len(pieces.lengths)
    batch, heads, rows, columns = zeros.shape
    if intra.reads is None:
        additions = torch.stack(_scan(pieces, intra, decay, intra.write, [zeros] * runs)[1])
        kind = (batch, heads, 1 if intra.total is None else intra.total.shape[-1], 1)
        through = [zeros.new_ones(kind)] * runs
        for run, by in zip(pieces.runs, decay.unbind(0), strict=True):
            through[run] = through[run] * by
        transitions = torch.stack(through)[..., 0]
        return Effect(transitions if transitions.shape[-1] == rows > 1 else transitions[..., 0], additions)
    unit = torch.eye(rows, dtype=zeros.dtype, device=zeros.device).expand(batch, heads, rows, rows)
    whole = functional.pad(intra.write, (0, rows))
    finals = torch.stack(_scan(pieces, intra, decay, whole, [torch.cat((zeros, unit), dim=-1)] * runs)[1])
    additions, transitions = finals.split((columns, rows), dim=-1)
    return Effect(transitions, additions)
