"""The functions that mixers call, whatever computes them: `linear_attention`, where the state is a matrix a head, and
`linear_channels`, where it is a number a channel."""

from __future__ import annotations

from torch import Tensor

from ringattn.kernels.kernel import sum_dtype
from ringattn.layers.linear.channels import channels
from ringattn.layers.linear.chunked import chunked
from ringattn.layers.linear.context import Context
from ringattn.layers.linear.fla import fla_attention, fla_channels, make_segments
from ringattn.layers.linear.kernels import Family, Request, check_name, choose_kernel, family_of
from ringattn.layers.linear.pieces import starts_in
from ringattn.layers.linear.recurrence import recurrence


def linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    context: Context,
    log_decay: Tensor | None = None,
    beta: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    kernel: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Linear attention of this rank's tokens; the recurrence is in `ringattn.layers.linear.recurrence`.

    query, key: [B, n, H, dk]; value: [B, n, H, dv], one dtype and device. log_decay: [B, n, H] or [B, n, H, dk], at
    most 0 and finite. beta: [B, n, H], the delta rule's. scale: 1/sqrt(dk) unless given. initial_state: [B, H, dk, dv],
    before the sequence, for a process alone. Sums and states are fp32, or fp64 where the value is. kernel: `auto`,
    `fla`, `torch` or `recurrent` (`ringattn.layers.linear.kernels`).

    Returns (out [B, n, H, dv] in the value's dtype, the state after the last local token [B, H, dk, dv]). Collective
    where the context spans ranks; there every rank must use `out` in its loss, since the backward is collective too.

    Raises ValueError where a shape does not fit, and where the kernel can't serve.
    """
    check_name(kernel)
    _check(query, key, value, log_decay, beta, initial_state)
    context.check(value)
    scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
    if context.sp is not None and (initial_state is not None or kernel == "recurrent"):
        what = "an initial state" if initial_state is not None else "kernel='recurrent'"
        raise ValueError(
            f"{what} is for a process alone, and this sequence lies on {context.sp.world} ranks: leave it out"
        )
    family = family_of(0 if log_decay is None else log_decay.ndim, delta=beta is not None)
    kernel = choose_kernel(kernel, Request(value.device, value.dtype, family, query.shape[-1], value.shape[-1]))
    # Of no tokens nothing is left to compute, but other ranks wait for their effect.
    if kernel == "fla" and value.shape[1]:
        return fla_attention(
            query,
            key,
            value,
            make_segments(context.runs, context.documents, len(value), value.device),
            log_decay=log_decay,
            beta=beta,
            scale=scale,
            initial_state=initial_state,
            entering=context.entering(),
        )
    if kernel == "recurrent":
        wide = sum_dtype(value.dtype)
        out, state = recurrence(
            query.to(wide),
            key.to(wide),
            value.to(wide),
            log_decay=None if log_decay is None else log_decay.to(wide),
            beta=None if beta is None else beta.to(wide),
            scale=scale,
            initial_state=None if initial_state is None else initial_state.to(wide),
            starts=set(starts_in(context.documents, context.runs).tolist()),
        )
        return out.to(value.dtype), state
    return chunked(
        query,
        key,
        value,
        context.pieces(value.device),
        log_decay=log_decay,
        beta=beta,
        scale=scale,
        initial_state=initial_state,
        entering=context.entering(),
    )


def linear_channels(
    x: Tensor, log_decay: Tensor, *, context: Context, initial_state: Tensor | None = None, kernel: str = "auto"
) -> tuple[Tensor, Tensor]:
    """HGRN's recurrence of this rank's tokens, h_t = exp(g_t) h_{t-1} + x_t in each channel.

    x, log_decay: [B, n, D]; initial_state: [B, D], for a process alone. Returns (h [B, n, D] in the dtype of x, the
    state after the last local token [B, D], fp32 or fp64). As `linear_attention` otherwise; there is no `recurrent`.
    """
    context.check(x)
    kernel = choose_kernel(kernel, Request(x.device, x.dtype, Family.HGRN, 1, 1))
    entering = context.entering()
    if kernel == "fla" and x.shape[1]:
        segments = make_segments(context.runs, context.documents, len(x), x.device)
        return fla_channels(x, log_decay, segments, initial_state=initial_state, entering=entering)
    return channels(x, log_decay, context.pieces(x.device), initial_state=initial_state, entering=entering)


def _check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    initial_state: Tensor | None,
) -> None:
    if value.ndim != 4 or query.ndim != 4 or query.shape[:3] != value.shape[:3] or key.shape != query.shape:
        raise ValueError(
            "linear attention takes query and key [B, n, H, dk] and value [B, n, H, dv], got "
            f"{list(query.shape)}, {list(key.shape)} and {list(value.shape)}"
        )
    wanted = {
        "log_decay": (log_decay, (value.shape[:3], query.shape), "[B, n, H] or [B, n, H, dk]"),
        "beta": (beta, (value.shape[:3],), "[B, n, H]"),
        "initial_state": (
            initial_state,
            ((value.shape[0], *query.shape[2:], value.shape[3]),),
            "[B, H, dk, dv]",
        ),
    }
    for name, (x, shapes, words) in wanted.items():
        if x is not None and tuple(x.shape) not in [tuple(shape) for shape in shapes]:
            raise ValueError(f"{name} must be {words}, got {list(x.shape)} beside a value of {list(value.shape)}")
        if x is not None and x.device != value.device:
            raise ValueError(f"{name} is on {x.device}, and the value on {value.device}: move one of them")
