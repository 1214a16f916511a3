"""Times transfers over the same process groups and transport that attention uses."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from ringattn.launch.probe.traffic import Flow, Measured, Scenario

from ringattn.runtime.groups import Groups
from ringattn.runtime.transport import Parcel, ProcessGroupTransport

# Bytes of the largest transfer: on a CPU every rank of a machine may have to hold several.
_LARGEST = {"cpu": 2**25, "cuda": 2**28}
_FIRST = 2**16


class Small(NamedTuple):
    """Of messages of 8 bytes, in seconds. exchange: both ranks post a receive and a send and wait for both. posting:
    what of it is spent posting one message. one_way: from the end of a send's posting to its arrival, where the receive
    was posted before."""

    exchange: float
    posting: float
    one_way: float


class Wire:
    """Collective: every rank makes the same calls, those that take no part in a transfer too.

    seconds: how long one transfer should take at least, where the largest size allows.
    """

    def __init__(self, groups: Groups, *, seconds: float, repeats: int, timeout: float) -> None:
        self.groups, self.repeats, self.timeout = groups, repeats, timeout
        self.rank, self.world = groups.rank, groups.world
        self.transport = ProcessGroupTransport(groups.upward, groups.downward)
        self.target = seconds
        self.largest = _LARGEST[groups.device.type] // (1 if groups.world <= 4 else 2)
        self._buffers: dict[tuple[str, int], torch.Tensor] = {}

    def alone(self, scenario: Scenario) -> Measured:
        """Time a scenario of which nothing is known: larger and larger transfers, until they take long enough."""
        size = _FIRST
        self.once(scenario.flows, size)  # The first one makes the connection.
        while size < self.largest:
            spent = self.once(scenario.flows, size)
            if spent >= 0.6 * self.target:
                break
            size = min(self.largest, round(size * min(16.0, max(1.5, self.target / spent))))
        return self.at(scenario, size)

    def at(self, scenario: Scenario, size: float) -> Measured:
        """The median of several transfers of this size."""
        fitting = int(min(self.largest, max(_FIRST, size)))
        spent: list[float] = []
        # Short ones, where the largest size is soon there, more often. All ranks see the same times.
        while len(spent) < self.repeats or (sum(spent) < self.repeats * self.target and len(spent) < 8 * self.repeats):
            spent.append(self.once(scenario.flows, fitting))
        return Measured(scenario, fitting, statistics.median(spent))

    def once(self, flows: Sequence[Flow], size: int) -> float:
        """Seconds from a common start until the last rank has all it waits for; the same on every rank."""
        receives = [Parcel(s, self._buffer("in", s, size), 0) for s, t in flows if t == self.rank]
        sends = [Parcel(t, self._buffer("out", 0, size), 0) for s, t in flows if s == self.rank]
        self.barrier()
        start = time.perf_counter()
        if receives or sends:
            received, sent = self.transport.post(receives, sends)
            for pending in (*received, *sent):
                pending.wait(self.timeout)
            self.synchronize()
        return max(self.gather(time.perf_counter() - start))

    def small(self, pair: Flow, times: int) -> Small | None:
        """Time small messages between two ranks; None on the others."""
        peer = {pair[0]: pair[1], pair[1]: pair[0]}.get(self.rank)
        self.barrier()
        if peer is None:
            return None
        out = torch.zeros(8, dtype=torch.uint8, device=self.groups.device)
        into = [torch.zeros_like(out) for _ in range(times)]
        exchanges, posting = [], []
        for index in range(times):
            start = time.perf_counter()
            received, sent = self.transport.post([Parcel(peer, into[index], 0)], [Parcel(peer, out, 0)])
            posted = time.perf_counter()
            for pending in (*received, *sent):
                pending.wait(self.timeout)
            self.synchronize()
            exchanges.append(time.perf_counter() - start)
            posting.append((posted - start) / 2)
        exchange, each = statistics.median(exchanges), statistics.median(posting)
        if self.groups.device.type != "cpu":
            # A receive that is posted ahead keeps NCCL's stream busy: the two parts are not told apart.
            return Small(exchange, each, 0.0)
        return Small(exchange, each, self._ping_pong(peer, out, into))

    def _ping_pong(self, peer: int, out: torch.Tensor, into: list[torch.Tensor]) -> float:
        """All receives are posted before the first send, so that none waits for its other end."""
        received, _ = self.transport.post([Parcel(peer, buffer, 0) for buffer in into], [])
        # One exchange after them is there only once the peer has posted them too.
        ready, told = self.transport.post([Parcel(peer, torch.zeros_like(out), 0)], [Parcel(peer, out, 0)])
        # Messages arrive in order: the first receive takes the word that the peer is ready.
        received = [*received, *ready]
        received[0].wait(self.timeout)
        told[0].wait(self.timeout)
        spent, posting = [], []
        for pending in received[1:]:
            start = time.perf_counter()
            if self.rank > peer:
                pending.wait(self.timeout)
            before = time.perf_counter()
            _, sent = self.transport.post([], [Parcel(peer, out, 0)])
            posting.append(time.perf_counter() - before)
            if self.rank < peer:
                pending.wait(self.timeout)
            sent[0].wait(self.timeout)
            spent.append(time.perf_counter() - start)
        # There and back, of which each end spends a part on posting.
        return statistics.median(spent) / 2 - statistics.median(posting)

    def gather(self, value: float) -> list[float]:
        """Every rank's number, on every rank."""
        found = [torch.zeros((), dtype=torch.float64) for _ in range(self.world)]
        dist.all_gather(found, torch.tensor(value, dtype=torch.float64), group=self.groups.control)
        return [each.item() for each in found]

    def barrier(self) -> None:
        dist.barrier(group=self.groups.control)

    def synchronize(self) -> None:
        if self.groups.device.type == "cuda":
            torch.cuda.synchronize()

    def _buffer(self, side: str, peer: int, size: int) -> torch.Tensor:
        found = self._buffers.get((side, peer))
        if found is None or found.numel() < size:
            found = self._buffers[side, peer] = torch.zeros(size, dtype=torch.uint8, device=self.groups.device)
        return found[:size]
