"""Linear attention by flash-linear-attention's Triton kernels (github.com/fla-org/flash-linear-attention), on GPUs.

fla takes [B, T, H, D] as we do, decays as logarithms, and states [dk, dv] in fp32. Its functions take the gradient of
the last state and give that of the first. What it calls sequences are here the segments between starts of documents.

Over ranks, tokens are read before the state that enters their run is known. The state is linear in what it starts from,
so that one call from a zero state will do:

- without the delta rule, the last state is the run's addition, its transition is the exponential of the summed log
  decays, and a state S that enters adds scale (q_t exp(G_t))^T S to what token t reads;
- with it, the transition is a matrix, and the kernel's own recurrence makes it: value columns of zeros beside the
  tokens' values start from the identity, and come out as the transition. What tokens read in these columns are the rows
  that S is then multiplied with. dk more value columns cost less than a second pass, or than the transition by torch's
  operators (`chunked`), and their gradients are the kernel's too.

HGRN is `chunk_hgrn` from zeros, with a decay of 0 where a segment begins: that function gives a first state no gradient
and ignores that of a last one (fla-core 0.6), and its sibling that doesn't goes through the tokens one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ringattn.kernels.kernel import sum_dtype
from ringattn.layers.linear.chunked import Entering
from ringattn.layers.linear.effect import Effect, apply
from ringattn.layers.linear.kernels import Family, family_of
from ringattn.layers.linear.pieces import starts_in


@dataclass(frozen=True)
class Segment:
    """Local tokens `start` to `stop` of a run, without a document's start but at their first.

    enters: the state that enters the run reaches them: they are its first, and begin no document.
    """

    start: int
    stop: int
    run: int
    enters: bool


@dataclass(frozen=True, eq=False)
class Segments:
    """Of a rank's runs, in order, none empty.

    starts: bool [n], whether a segment begins at a token. bounds: int64 [B x segments + 1], where each begins in rows
    behind one another; None where there is one segment.
    """

    parts: tuple[Segment, ...]
    runs: int
    starts: Tensor
    bounds: Tensor | None

    def last(self, run: int) -> int | None:
        """The number of the run's last segment; None of a run without tokens."""
        return max((number for number, part in enumerate(self.parts) if part.run == run), default=None)


@lru_cache(maxsize=16)
def make_segments(
    runs: tuple[range, ...], documents: tuple[int, ...] | None, batch: int, device: torch.device
) -> Segments:
    """As `make_pieces`. All layers get the same object, since fla keeps what it makes of `bounds` by its identity."""
    begun = set(starts_in(documents, runs).tolist())
    parts: list[Segment] = []
    before = 0
    for number, run in enumerate(runs):
        cuts = [run.start, *sorted(start for start in begun if run.start < start < run.stop), run.stop]
        for first, stop in pairwise(cuts) if run else ():
            enters = first == run.start and first not in begun
            parts.append(Segment(before + first - run.start, before + stop - run.start, number, enters))
        before += len(run)
    # What is made for inference could not be saved for a backward later.
    with torch.inference_mode(False):
        starts = torch.zeros(before, dtype=torch.bool)
        starts[[part.start for part in parts]] = True
        bounds = [row * before + part.start for row in range(batch) for part in parts] + [batch * before]
        whole = None if len(parts) < 2 else torch.tensor(bounds, dtype=torch.int64, device=device)
        return Segments(tuple(parts), len(runs), starts.to(device), whole)


def fla_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    *,
    log_decay: Tensor | None,
    beta: Tensor | None,
    scale: float,
    initial_state: Tensor | None = None,
    entering: Entering | None = None,
) -> tuple[Tensor, Tensor]:
    """As `chunked`, of at least one local token; query and key are rounded to the value's dtype."""
    wide = sum_dtype(value.dtype)
    decay = None if log_decay is None else log_decay.to(wide)
    share = None if beta is None else beta.to(wide)
    query, key = query.to(value.dtype), key.to(value.dtype)
    batch, _, heads, rows = query.shape
    columns = value.shape[-1]

    def states_of(value: Tensor, first: Tensor | None) -> tuple[Tensor, Tensor]:
        return _call(segments, query, key, value, decay, share, scale, first)

    with torch.autocast(value.device.type, enabled=False):
        if entering is None:
            out, finals = states_of(value, None if initial_state is None else initial_state.to(wide))
            return out, finals[:, -1]
        reads = None
        if beta is None:
            out, finals = states_of(value, None)
        else:
            unit = torch.eye(rows, dtype=wide, device=value.device).expand(batch, heads, rows, rows)
            whole, finals = states_of(functional.pad(value, (0, rows)), functional.pad(unit, (columns, 0)))
            out, reads = whole.split((columns, rows), dim=-1)

        def decayed(part: Segment) -> Tensor:
            """Decays from the entering state to each token, [B, tokens, H, dk or 1]."""
            if decay is None:
                return finals.new_ones((batch, part.stop - part.start, heads, 1))
            by = decay[:, part.start : part.stop].cumsum(1).exp()
            return by if by.ndim == 4 else by[..., None]

        def effect(run: int) -> Effect:
            last = segments.last(run)
            if last is None:
                return _nothing(finals[:, 0], None if reads is None else columns, decay)
            if reads is not None:
                addition, transition = finals[:, last].split((columns, rows), dim=-1)
                return Effect(transition, addition)
            return Effect(_through(segments.parts[last], decay, finals), finals[:, last])

        def read(part: Segment, state: Tensor) -> Tensor:
            tokens = slice(part.start, part.stop)
            rows_of = reads[:, tokens] if reads is not None else scale * query[:, tokens] * decayed(part)
            return torch.einsum("bnhk,bhkv->bnhv", rows_of.to(value.dtype), state.to(value.dtype))

        return _joined(segments, out, [effect(run) for run in range(segments.runs)], entering, read)


def fla_channels(
    x: Tensor,
    log_decay: Tensor,
    segments: Segments,
    *,
    initial_state: Tensor | None = None,
    entering: Entering | None = None,
) -> tuple[Tensor, Tensor]:
    """As `channels`, of at least one local token."""
    wide = sum_dtype(x.dtype)
    decay = log_decay.to(wide)
    with torch.autocast(x.device.type, enabled=False):
        own, _ = function(Family.HGRN)(x=x.to(wide), g=decay.masked_fill(segments.starts[:, None], float("-inf")))
        if entering is None and initial_state is None:
            return own.to(x.dtype), own[:, -1]

        def decayed(part: Segment) -> Tensor:
            """Decays from the entering state to each token, [B, tokens, D]."""
            return decay[:, part.start : part.stop].cumsum(1).exp()

        def effect(run: int) -> Effect:
            last = segments.last(run)
            zeros = torch.zeros_like(own[:, 0])
            if last is None:
                return Effect(torch.ones_like(zeros), zeros[..., None, None])
            part = segments.parts[last]
            through = decay[:, part.start : part.stop].sum(1).exp() if part.enters else zeros
            return Effect(through, own[:, part.stop - 1, :, None, None])

        def read(part: Segment, state: Tensor) -> Tensor:
            return decayed(part) * state[..., 0, 0][:, None]

        def known(effects: Effect) -> Tensor:
            assert initial_state is not None
            return initial_state.to(wide)[None, ..., None, None]

        effects = [effect(run) for run in range(segments.runs)]
        out, state = _joined(segments, own, effects, entering or known, read)
        return out.to(x.dtype), state[..., 0, 0]


@lru_cache(maxsize=8)
def function(family: Family) -> Callable[..., Any]:
    """fla's function for a family."""
    # Not from fla.ops itself, which has no chunk_hgrn.
    found: Callable[..., Any] = getattr(import_module(f"fla.ops.{family.value}.chunk"), f"chunk_{family.value}")
    return found


def _call(
    segments: Segments,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    decay: Tensor | None,
    beta: Tensor | None,
    scale: float,
    first: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """(out [B, n, H, dv], the state after each segment [B, segments, H, dk, dv]).

    first: [B, H, dk, dv], the state that enters those segments that one does enter; zeros where None.
    """
    family = family_of(0 if decay is None else decay.ndim, delta=beta is not None)
    tensors = {"q": query, "k": key, "v": value}
    tensors |= {name: x for name, x in (("g", decay), ("beta", beta)) if x is not None}
    if segments.bounds is not None:
        # Sequences of many lengths are one row for fla.
        tensors = {name: x.flatten(0, 1)[None] for name, x in tensors.items()}
        if first is not None:
            zeros = torch.zeros_like(first)
            first = torch.stack([first if part.enters else zeros for part in segments.parts], dim=1).flatten(0, 1)
    elif first is not None and not segments.parts[0].enters:
        first = torch.zeros_like(first)
    out, finals = function(family)(
        **tensors, scale=scale, initial_state=first, output_final_state=True, cu_seqlens=segments.bounds
    )
    return out.reshape(value.shape), finals.unflatten(0, (value.shape[0], -1))


def _through(part: Segment, decay: Tensor | None, like: Tensor) -> Tensor:
    """The transition of a run that ends with this segment, [B, H] or [B, H, dk]. like: [B, segments, H, ...]."""
    if decay is None:
        return like.new_full((like.shape[0], like.shape[2]), float(part.enters))
    whole = decay[:, part.start : part.stop].sum(1).exp()
    return whole if part.enters else torch.zeros_like(whole)


def _nothing(state: Tensor, columns: int | None, decay: Tensor | None) -> Effect:
    """The effect of a run without tokens. state: [B, H, dk, dv], or with the delta rule [B, H, dk, columns + dk]."""
    if columns is not None:
        rows = state.shape[-2]
        unit = torch.eye(rows, dtype=state.dtype, device=state.device).expand(*state.shape[:-1], rows)
        return Effect(unit, torch.zeros_like(state[..., :columns]))
    by_row = decay is not None and decay.ndim == 4
    return Effect(state.new_ones(state.shape[:3] if by_row else state.shape[:2]), torch.zeros_like(state))


def _joined(
    segments: Segments,
    out: Tensor,
    each: Sequence[Effect],
    entering: Entering,
    read: Callable[[Segment, Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """(`out` [B, n, ...], of runs that began with zeros, as it is behind the states that enter them; the state after
    the last run with tokens). read: what a state adds to a segment's outputs."""
    effects = Effect(torch.stack([one.transition for one in each]), torch.stack([one.addition for one in each]))
    before = entering(effects).unbind(0)
    entered = [part for part in segments.parts if part.enters]
    parts, done = [], 0
    for part in entered:
        parts += [out[:, done : part.start], out[:, part.start : part.stop] + read(part, before[part.run])]
        done = part.stop
    parts.append(out[:, done:])
    if not entered:
        # The backward of what came from other ranks is collective, and waits for this rank's.
        parts[-1] = parts[-1] + 0 * before[-1].sum().to(out.dtype)
    run = segments.parts[-1].run
    return torch.cat(parts, dim=1), apply(each[run], before[run])
