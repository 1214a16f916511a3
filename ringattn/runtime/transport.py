"""How messages get from rank to rank: over torch.distributed process groups, or inside one process."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple, Protocol

import torch.distributed as dist
from torch import Tensor


class Parcel(NamedTuple):
    """A buffer for or from `peer` (a rank of the schedule's world). due: the step that ends with it there."""

    peer: int
    buffer: Tensor
    due: int


class Pending(Protocol):
    """A message under way. `wait` returns once the buffer may be read (received) or reused (sent)."""

    def wait(self, timeout: float) -> None:
        """Raises RuntimeError where that does not happen within `timeout` seconds, or the peer is gone."""


class Transport(Protocol):
    """Posts the messages of one step. Both ends post the messages between them in the same order."""

    rank: int
    world: int

    def post(self, receives: Sequence[Parcel], sends: Sequence[Parcel]) -> tuple[list[Pending], list[Pending]]:
        """Start all messages; returns what to wait for, in the order given."""


class ProcessGroupTransport:
    """Messages over two process groups with the same ranks: one for peers above, one for peers below.

    So each connection carries data one way only, and the notices by which a receiver asks for data never queue behind
    bulk data (with gloo this takes a third off a bidirectional exchange). Receives are posted before sends.
    """

    def __init__(self, upward: dist.ProcessGroup, downward: dist.ProcessGroup) -> None:
        self.rank = dist.get_rank(upward)
        self.world = dist.get_world_size(upward)
        self._groups = (upward, downward)
        self._batches = dist.get_backend(upward) == "nccl"

    def post(self, receives: Sequence[Parcel], sends: Sequence[Parcel]) -> tuple[list[Pending], list[Pending]]:
        if self._batches:
            return self._post_batches(receives, sends)
        received: list[Pending] = []
        for peer, buffer, _ in receives:
            work = dist.irecv(buffer, group=self._group(peer, self.rank), group_src=peer)
            received.append(_Work(work))
        sent: list[Pending] = []
        for peer, buffer, _ in sends:
            work = dist.isend(buffer, group=self._group(self.rank, peer), group_dst=peer)
            sent.append(_Work(work))
        return received, sent

    def _group(self, source: int, target: int) -> dist.ProcessGroup:
        return self._groups[0] if source < target else self._groups[1]

    def _post_batches(self, receives: Sequence[Parcel], sends: Sequence[Parcel]) -> tuple[list[Pending], list[Pending]]:
        """NCCL runs what one group call holds at once; messages that are due later get a call of their own."""
        batches: defaultdict[tuple[int, int], list[dist.P2POp]] = defaultdict(list)
        keys: list[tuple[int, int]] = []
        for peer, buffer, due in receives:
            group = self._group(peer, self.rank)
            keys.append((due, int(group is self._groups[1])))
            batches[keys[-1]].append(dist.P2POp(dist.irecv, buffer, group=group, group_peer=peer))
        for peer, buffer, due in sends:
            group = self._group(self.rank, peer)
            keys.append((due, int(group is self._groups[1])))
            batches[keys[-1]].append(dist.P2POp(dist.isend, buffer, group=group, group_peer=peer))
        works = {key: _Works(dist.batch_isend_irecv(batches[key])) for key in sorted(batches)}
        pending: list[Pending] = [works[key] for key in keys]
        return pending[: len(receives)], pending[len(receives) :]


class _Work:
    def __init__(self, work: Any) -> None:
        self._work = work

    def wait(self, timeout: float) -> None:
        if self._work is not None:
            self._work.wait(timedelta(seconds=timeout))


class _Works:
    """A batch: waited for once, whichever of its messages is asked for first."""

    def __init__(self, works: list[Any]) -> None:
        self._works = works

    def wait(self, timeout: float) -> None:
        works, self._works = self._works, []
        for work in works:
            # NCCL makes the current stream wait; its own watchdog has the group's timeout.
            work.wait()


class Mailboxes:
    """What is under way between the ranks of a world that lives in one process.

    boxes[source, target, n]: the n-th message from one rank to another. As with process groups, the n-th receive that
    is posted gets the n-th that was sent, whichever is waited for first.
    """

    def __init__(self, world: int) -> None:
        self.world = world
        self.boxes: dict[tuple[int, int, int], Tensor] = {}
        self.sent: Counter[tuple[int, int]] = Counter()
        self.posted: Counter[tuple[int, int]] = Counter()


class VirtualTransport:
    """Messages between ranks that one process plays in turn (`ringattn.virtual`)."""

    def __init__(self, rank: int, mailboxes: Mailboxes) -> None:
        self.rank = rank
        self.world = mailboxes.world
        self._mail = mailboxes

    def post(self, receives: Sequence[Parcel], sends: Sequence[Parcel]) -> tuple[list[Pending], list[Pending]]:
        mail = self._mail
        for peer, buffer, _ in sends:
            # What was sent is what lay there when it was sent, whatever the sender does to its buffer afterwards.
            mail.boxes[self.rank, peer, mail.sent[self.rank, peer]] = buffer.clone()
            mail.sent[self.rank, peer] += 1
        received: list[Pending] = []
        for peer, buffer, _ in receives:
            received.append(_Delivery(mail, (peer, self.rank, mail.posted[peer, self.rank]), buffer))
            mail.posted[peer, self.rank] += 1
        return received, [_Done() for _ in sends]


class _Delivery:
    def __init__(self, mail: Mailboxes, box: tuple[int, int, int], buffer: Tensor) -> None:
        self._mail, self._box, self._buffer = mail, box, buffer

    def wait(self, timeout: float) -> None:
        message = self._mail.boxes.pop(self._box, None)
        if message is None:
            raise RuntimeError("nothing was sent")
        if message.numel() != self._buffer.numel():
            raise RuntimeError(f"{message.numel()} bytes were sent and {self._buffer.numel()} expected")
        self._buffer.copy_(message)


class _Done:
    def wait(self, timeout: float) -> None:
        return
