"""Attention's results kept over activation checkpointing, so that the recomputation neither sends nor computes.

A checkpointed region runs twice: in the forward, and again in the backward to make anew what the backward reads.
Attention's out and lse are small beside what the region drops, and dear to make: communication and a forward. So they
are kept from the first run and handed out in the second, in the order of the calls.
"""

from __future__ import annotations

from torch import Tensor

from ringattn.runtime.call import Call

Result = tuple[Call, Tensor, Tensor]


class Kept:
    """The results of one region, in the order of its calls: the call, out [B, n, Hq, D], lse [n, B, Hq]."""

    def __init__(self) -> None:
        self._results: list[Result] = []
        self._next = 0

    def add(self, call: Call, out: Tensor, lse: Tensor) -> None:
        # Detached: the tensor that autograd returns holds the graph, which holds the region, which holds this.
        self._results.append((call, out.detach(), lse.detach()))

    def rewind(self) -> None:
        """Before a run. A run may stop early, once all that the backward needs is there; the next starts anew."""
        self._next = 0

    def take(self, query: Tensor) -> Result:
        """The result of the next call, whose query was of the shape of `query`."""
        if self._next == len(self._results) or self._results[self._next][1].shape != query.shape:
            raise RuntimeError(
                "a checkpointed region must make the same attention calls when it is recomputed: call "
                f"{self._next + 1} with a query of the shape {tuple(query.shape)} was not made in the forward; "
                "make the region depend on its inputs alone, or checkpoint without keeping attention"
            )
        call, out, lse = self._results[self._next]
        self._next += 1
        return call, out.detach(), lse


class Keeping:
    """A context in which attention's results are kept in, or taken from, a `Kept`.

    It may be entered again: each backward over a retained graph recomputes. Regions may lie in one another: a result
    is kept for each of them, and a recomputed outer region fills the inner one anew.
    """

    def __init__(self, stack: list[Keeping], kept: Kept, *, replaying: bool) -> None:
        self._stack = stack
        self._kept = kept
        self._replaying = replaying

    def __enter__(self) -> None:
        if self._replaying:
            self._kept.rewind()
        self._stack.append(self)

    def __exit__(self, *error: object) -> None:
        self._stack.pop()


def keep(stack: list[Keeping], call: Call, out: Tensor, lse: Tensor) -> None:
    """Add a new result to every region that is being run for the first time."""
    for keeping in stack:
        keeping._kept.add(call, out, lse)


def replay(stack: list[Keeping], query: Tensor) -> Result | None:
    """The kept result of the call with `query`, or None where it must be computed."""
    for depth in reversed(range(len(stack))):
        if stack[depth]._replaying:
            call, out, lse = stack[depth]._kept.take(query)
            keep(stack[depth + 1 :], call, out, lse)
            return call, out, lse
    return None
