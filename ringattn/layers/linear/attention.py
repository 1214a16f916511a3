"""`linear_attention`: the one function that all mixers with a matrix state call, whatever computes it."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from ringattn.layers.linear.chunked import chunked
from ringattn.layers.linear.context import Context
from ringattn.layers.linear.pieces import starts_in
from ringattn.layers.linear.recurrence import recurrence
from ringattn.sequence.layout import suggest

# auto: chunked. recurrent: token by token, for a process alone; the reference. fla: flash-linear-attention's Triton.
KERNELS = ("auto", "chunked", "recurrent", "fla")


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
    before the sequence, for a process alone. Sums and states are fp32, or fp64 where the value is.

    Returns (out [B, n, H, dv] in the value's dtype, the state after the last local token [B, H, dk, dv]). Collective
    where the context spans ranks; there every rank must use `out` in its loss, since the backward is collective too.

    Raises ValueError where a shape does not fit, and where the kernel can't serve.
    """
    check_kernel(kernel, value.device)
    _check(query, key, value, log_decay, beta, initial_state)
    context.check(value)
    scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
    if context.sp is not None and (initial_state is not None or kernel == "recurrent"):
        what = "an initial state" if initial_state is not None else "kernel='recurrent'"
        raise ValueError(
            f"{what} is for a process alone, and this sequence lies on {context.sp.world} ranks: leave it out"
        )
    if kernel == "recurrent":
        wide = torch.float64 if value.dtype == torch.float64 else torch.float32
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


def check_kernel(kernel: str, device: torch.device | None = None) -> None:
    """Raise ValueError where there is no such kernel, or it can't serve on `device`."""
    if kernel not in KERNELS:
        raise ValueError(f"unknown kernel {kernel!r}{suggest(kernel, KERNELS)}; there are {', '.join(KERNELS)}")
    if kernel != "fla":
        return
    remedy = "use kernel='chunked', which runs on any device"
    if find_spec("fla") is None:
        raise ValueError(f"kernel='fla' needs flash-linear-attention, which is not installed: {remedy}")
    if not torch.cuda.is_available() or (device is not None and device.type != "cuda"):
        where = "there is no GPU" if device is None or device.type == "cuda" else f"the tensors are on {device}"
        raise ValueError(f"kernel='fla' runs on a GPU, and {where}: {remedy}")
    raise ValueError(f"kernel='fla' is not connected yet: {remedy}")


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
