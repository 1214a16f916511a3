"""Time schedules against each other on real ranks: the same input, one round after another.

In each round every schedule runs once, so that a machine whose speed drifts treats all alike. Ranks wait for each other
before each forward and each backward, and time them apart.
"""

from __future__ import annotations

import gc
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ringattn.attention import SequenceParallel
from ringattn.kernels.kernel import sum_dtype
from ringattn.planner.timeline import RankTimeline
from ringattn.sequence.mask import Mask

# Names of tensors are those of a report.
Results = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Shards:
    """One rank's part of the input. query, grad_out: [B, n, Hq, D]; key, value: [B, n, Hkv, D]; length: of the whole
    sequence."""

    query: Tensor
    key: Tensor
    value: Tensor
    grad_out: Tensor
    length: int
    mask: Mask


@dataclass(frozen=True)
class Recording:
    """began: by this host's clock, which its processes share. computed: seconds of tasks and merges."""

    began: float
    timeline: RankTimeline

    @property
    def computed(self) -> float:
        return self.timeline.seconds("compute") + self.timeline.seconds("merge")


@dataclass(kw_only=True)
class RankPass:
    """One direction of one schedule on one rank. seconds: of each repeat. sent, received: bytes by peer, in one pass.
    peak_buffer_bytes: of messages, in the pool. peak_memory_bytes: see `measure`."""

    seconds: list[float] = field(default_factory=list)
    recordings: list[Recording] = field(default_factory=list)
    sent: dict[int, int] = field(default_factory=dict)
    received: dict[int, int] = field(default_factory=dict)
    peak_buffer_bytes: int = 0
    peak_memory_bytes: int = 0


@dataclass(kw_only=True)
class RankResult:
    """What one rank found out about one schedule. error: by tensor, from `check`."""

    forward: RankPass = field(default_factory=RankPass)
    backward: RankPass = field(default_factory=RankPass)
    error: dict[str, float] = field(default_factory=dict)


def measure(
    candidates: Mapping[str, SequenceParallel],
    shards: Shards,
    *,
    repeats: int,
    warmup: int = 1,
    recorded: int = 1,
    control: dist.ProcessGroup | None = None,
    check: Callable[[Results], dict[str, float]] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, RankResult]:
    """Run every candidate `warmup` times, `repeats` times timed, and `recorded` times with a timeline. Collective.

    candidates: by name; make them with `SequenceParallel.under` to share the process groups. control: a gloo group of
    the same ranks, the default group unless given. check: of the first round's `out`, `dq`, `dk` and `dv`, what the
    results keep as their errors. say: told of each round.

    The peak of memory is, on a GPU, the allocator's, less what belongs to others. On a CPU, which has no such count, it
    is what the runtime knows of: the input, results, their sums and the buffers of messages, without what a kernel
    takes for itself.
    """
    runs = {name: _AttentionRun(sp, shards, control) for name, sp in candidates.items()}
    return measure_runs(runs, repeats=repeats, warmup=warmup, recorded=recorded, check=check, say=say)


def measure_runs(
    runs: Mapping[str, Run],
    *,
    repeats: int,
    warmup: int = 1,
    recorded: int = 1,
    check: Callable[[Results], dict[str, float]] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, RankResult]:
    """`measure`, of whatever can be run."""
    if warmup < 1 or repeats < 1:
        raise ValueError(f"schedules are measured after 1 or more rounds of warm-up, got {warmup}, {repeats} times")
    kinds = [*["warm-up"] * warmup, *["repeat"] * repeats, *["recorded"] * recorded]
    with _without_collector():
        for number, kind in enumerate(kinds):
            began = time.perf_counter()
            for run in runs.values():
                results = run.once(kind)
                if number == 0 and check is not None:
                    run.found.error = check(results)
                del results
            seconds = time.perf_counter() - began
            say(f"round {number + 1} of {len(kinds)}, {kind}: {seconds:.1f} s")
    return {name: run.found for name, run in runs.items()}


class Run(ABC):
    """One candidate and what is found out about it."""

    def __init__(self, sp: SequenceParallel, device: torch.device, control: dist.ProcessGroup | None = None) -> None:
        self.sp, self.device, self.control = sp, device, control
        self.found = RankResult()

    @abstractmethod
    def inputs(self) -> list[Tensor]:
        """Leaves that want gradients, new ones each time."""

    @abstractmethod
    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """What is timed; its backward is that of autograd."""

    @abstractmethod
    def grad_out(self) -> Tensor:
        """The gradient of what `forward` returns."""

    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Of the result and of the gradients of all inputs, in reports."""

    @abstractmethod
    def own_bytes(self, *, backward: bool) -> int:
        """Of the memory in use before a pass, what belongs to it: its input, and before the backward what the forward
        left for it."""

    @abstractmethod
    def known_bytes(self, *, backward: bool) -> int:
        """Of all tensors at the end of a pass, as far as they are known."""

    def once(self, kind: str) -> Results:
        inputs = self.inputs()
        out = self._pass(self.found.forward, kind, lambda: self.forward(inputs), backward=False)
        grad_out = self.grad_out()
        grads = self._pass(self.found.backward, kind, lambda: torch.autograd.grad(out, inputs, grad_out), backward=True)
        return dict(zip(self.names(), (out.detach(), *grads)))

    def _pass(self, found: RankPass, kind: str, compute: Callable[[], Any], *, backward: bool) -> Any:
        sp, pool = self.sp, self.sp.pool(self.device)
        sp.counter.reset()
        pool.reset_peak()
        before = self._allocated(reset=True) - pool.kept
        dist.barrier(group=self.control)
        if kind == "recorded":
            with sp.record() as timeline:
                result = compute()
            found.recordings.append(Recording(timeline.began, timeline.whole()))
            return result
        start = time.perf_counter()
        result = compute()
        self._catch_up()
        seconds = time.perf_counter() - start
        if kind == "repeat":
            found.seconds.append(seconds)
            return result
        found.sent, found.received = dict(sp.counter.sent_to), dict(sp.counter.received_from)
        found.peak_buffer_bytes = pool.peak
        if self.device.type == "cuda":
            # What was there before belongs to others, but for the input, and what the forward left for the backward.
            own = self.own_bytes(backward=backward)
            found.peak_memory_bytes = torch.cuda.max_memory_allocated(self.device) - before + own
        else:
            found.peak_memory_bytes = self.known_bytes(backward=backward) + pool.peak
        return result

    def _allocated(self, *, reset: bool) -> int:
        """Bytes that the allocator has given out, where it counts."""
        if self.device.type != "cuda":
            return 0
        self._catch_up()
        if reset:
            torch.cuda.reset_peak_memory_stats(self.device)
        return torch.cuda.memory_allocated(self.device)

    def _catch_up(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class _AttentionRun(Run):
    def __init__(self, sp: SequenceParallel, shards: Shards, control: dist.ProcessGroup | None) -> None:
        super().__init__(sp, shards.query.device, control)
        self.shards = shards

    def inputs(self) -> list[Tensor]:
        return [x.detach().requires_grad_() for x in (self.shards.query, self.shards.key, self.shards.value)]

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        query, key, value = inputs
        mask, length = self.shards.mask, self.shards.length
        return self.sp.attention(
            query, key, value, causal=mask.causal, window=mask.window, documents=mask.documents, length=length
        )

    def grad_out(self) -> Tensor:
        return self.shards.grad_out

    def names(self) -> tuple[str, ...]:
        return ("out", "dq", "dk", "dv")

    def own_bytes(self, *, backward: bool) -> int:
        return _held_bytes(self.shards) if backward else _input_bytes(self.shards)

    def known_bytes(self, *, backward: bool) -> int:
        return known_bytes(self.shards, backward=backward)


def known_bytes(shards: Shards, *, backward: bool) -> int:
    """Bytes of the input, the results and their sums that one pass has at its end."""
    query, key = shards.query.numel(), shards.key.numel()
    narrow, wide = shards.query.itemsize, sum_dtype(shards.query.dtype).itemsize
    # Sums are results where nothing is rounded.
    sums = 0 if narrow == wide else wide
    if backward:
        return _held_bytes(shards) + _row_bytes(shards) + (query + 2 * key) * (narrow + sums)
    return _held_bytes(shards) + query * sums


def _input_bytes(shards: Shards) -> int:
    return sum(x.nbytes for x in (shards.query, shards.key, shards.value, shards.grad_out))


def _held_bytes(shards: Shards) -> int:
    """Of the input, out and lse."""
    return _input_bytes(shards) + shards.query.nbytes + _row_bytes(shards)


def _row_bytes(shards: Shards) -> int:
    """Of a number for each row and head: lse, or delta."""
    return shards.query[..., 0].numel() * sum_dtype(shards.query.dtype).itemsize


@contextmanager
def _without_collector() -> Iterator[None]:
    """Schedules are many small objects: a pass of the collector in the middle would be some schedule's bad luck."""
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
