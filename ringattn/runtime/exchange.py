"""One exchange of messages between this rank and its peers: posted together, counted, waited for.

For what is no attention: states of linear attentions and the tokens before a chunk. Schedules have the executor.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ringattn.runtime.counter import Counter
from ringattn.runtime.executor import CommunicationError
from ringattn.runtime.timeline import Timeline
from ringattn.runtime.transport import Parcel, Pending, Transport


class Exchanges:
    """The exchanges of one pass, step by step. what: its name in errors. Buffers are contiguous; those of size 0 are
    left out, on both ends."""

    def __init__(
        self,
        transport: Transport,
        counter: Counter,
        *,
        what: str,
        backward: bool,
        timeout: float,
        timeline: Timeline | None = None,
    ) -> None:
        self.transport, self.counter, self.timeout, self.timeline = transport, counter, timeout, timeline
        self.direction = "backward" if backward else "forward"
        self.what = f"rank {transport.rank}, {what} {self.direction}"

    def exchange(self, receives: Mapping[int, Tensor], sends: Mapping[int, Tensor], *, step: int) -> None:
        """Fill `receives` with what peers send, and send `sends`, by peer; returns once both are done.

        Raises:
            CommunicationError: a peer is gone or does not answer in time.
        """
        incoming = [(peer, buffer) for peer, buffer in sorted(receives.items()) if buffer.numel()]
        outgoing = [(peer, buffer) for peer, buffer in sorted(sends.items()) if buffer.numel()]
        if not incoming and not outgoing:
            return
        posted = self._now()
        where = f"{self.what}, step {step + 1}"
        try:
            received, sent = self.transport.post(
                [Parcel(peer, buffer, step) for peer, buffer in incoming],
                [Parcel(peer, buffer, step) for peer, buffer in outgoing],
            )
        except RuntimeError as error:
            peers = ", ".join(map(str, sorted({peer for peer, _ in (*incoming, *outgoing)})))
            raise CommunicationError(f"{where}: could not start the exchange with ranks {peers}: {error}") from error
        for peer, buffer in outgoing:
            self.counter.sent_to[peer] += buffer.nbytes
            self.counter.sent_messages += 1
        for peer, buffer in incoming:
            self.counter.received_from[peer] += buffer.nbytes
        if self.timeline:
            self.timeline.add("post", self.direction, step, posted, bytes=sum(b.nbytes for _, b in outgoing))
        for (peer, buffer), pending in zip(incoming, received):
            self._wait(pending, peer, buffer.nbytes, where, posted, step, received=True)
        for (peer, buffer), pending in zip(outgoing, sent):
            self._wait(pending, peer, buffer.nbytes, where, posted, step, received=False)

    def _wait(
        self, pending: Pending, peer: int, size: int, where: str, posted: float, step: int, *, received: bool
    ) -> None:
        start = self._now()
        verb = "a message from" if received else "its message to be taken by"
        try:
            with self.counter.wait_for(f"{where}: {verb} rank {peer}"):
                pending.wait(self.timeout)
        except RuntimeError as error:
            what = "nothing came from" if received else "a message was not taken by"
            raise CommunicationError(
                f"{where}: {what} rank {peer} ({size} bytes) within {self.timeout:g} s, or it is gone; see what rank "
                f"{peer} printed, or raise timeout= if it is only slow. The transport: {error}"
            ) from error
        if self.timeline:
            stop = self.timeline.now()
            for kind, began in (("wait", start), ("receive" if received else "send", posted)):
                self.timeline.add(kind, self.direction, step, began, stop=stop, peer=peer, bytes=size)

    def _now(self) -> float:
        return self.timeline.now() if self.timeline else 0.0
