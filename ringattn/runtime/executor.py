"""Runs one rank's plan: posts the messages of a step, computes its tasks meanwhile, waits, merges.

Tensors are kept with rows first, [rows, B, H, D], so that the rows of chunks lie one behind the other in local
tensors and in messages alike. What a kernel reads are views of these.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ringattn.kernels.bands import Band
from ringattn.kernels.kernel import Kernel, sum_dtype
from ringattn.kernels.merge import merge_
from ringattn.runtime.counter import Counter
from ringattn.runtime.plan import HeadSlice, Plan, TaskPlan, Wire
from ringattn.runtime.pool import BufferPool
from ringattn.runtime.program import Item, Message
from ringattn.runtime.sums import OrderedSums, clear
from ringattn.runtime.timeline import Timeline
from ringattn.runtime.transport import Parcel, Pending, Transport
from ringattn.schedule.traffic import parts
from ringattn.schedule.value import Kind, Side


class CommunicationError(RuntimeError):
    """A peer is gone or stalls; the text names the step, the peer and what was expected of it."""


class _Rows(NamedTuple):
    """Rows [start, stop) of some tensors, all with rows first; the key is for what is derived from them."""

    tensors: dict[str, Tensor]
    start: int
    stop: int


class Executor:
    """One run of a `Plan`. Iterate over `phases`, then read `results`.

    inputs: this rank's tensors by the names in `ringattn.schedule.traffic`, rows first: forward query, key and value;
        backward also grad_out, lse and delta.
    """

    def __init__(
        self,
        plan: Plan,
        inputs: dict[str, Tensor],
        kernel: Kernel,
        transport: Transport | None,
        pool: BufferPool,
        counter: Counter,
        *,
        timeout: float,
        timeline: Timeline | None = None,
    ) -> None:
        self.plan = plan
        self.kernel = kernel
        self.transport = transport
        self.pool = pool
        self.counter = counter
        self.timeout = timeout
        self.timeline = timeline
        self.direction = "backward" if plan.backward else "forward"
        self._own_inputs = {
            side: {part.name: inputs[part.name] for part in parts(Kind.PARCEL, side, backward=plan.backward)}
            for side in Side
        }
        self._own_rows = {side: _own_rows(plan, side) for side in Side}
        self._own_sums = {side: self._empty_sums(side) for side in Side}
        self._begun: set[tuple[Message | None, Item]] = set()
        self._buffers: dict[Message, Tensor] = {}
        self._parcels: dict[Item, tuple[dict[str, Tensor], tuple[int, int]]] = {}
        self._pending: dict[Message, Pending] = {}
        # When messages under way were posted, where a timeline is recorded.
        self._posted: dict[Message, float] = {}

    @property
    def results(self) -> dict[str, Tensor]:
        """Rows first. Forward: out and lse; backward: grad_query, grad_key, grad_value; in the dtype of sums."""
        for side, sums in self._own_sums.items():
            for heads in range(len(self.plan.schedule.heads)):
                for chunk in self._own_rows[side]:
                    if sums:
                        self._begin(None, side, chunk, heads)
        return {name: tensor for sums in self._own_sums.values() for name, tensor in sums.items()}

    def phases(self) -> Iterator[None]:
        """Runs to the end, pausing after each step's posts, its tasks and its waits, so that ranks that live in one
        process can be played side by side."""
        for index, step in enumerate(self.plan.program.steps):
            self._post(index, late=False)
            yield
            for task in self.plan.tasks[index]:
                start = self._now()
                self._compute(task, index)
                self.counter.progressed()
                if self.timeline:
                    self.timeline.add("compute", self.direction, index, start)
            self._post(index, late=True)
            yield
            for message in step.arrivals:
                self._wait(message, index, received=True)
                start = self._now()
                self._take_in(message)
                if self.timeline and message.kind is Kind.PARTIAL:
                    self.timeline.add("merge", self.direction, index, start)
            for message in step.departures:
                self._wait(message, index, received=False)
            yield
            for message in list(self._buffers):
                if message.last == index:
                    self.pool.give_back(self._buffers.pop(message))

    def _now(self) -> float:
        return self.timeline.now() if self.timeline else 0.0

    def _post(self, index: int, *, late: bool) -> None:
        step = self.plan.program.steps[index]
        start = self._now()
        receives = [m for m in step.receives if m.late is late and self.plan.wires[m].size]
        sends = [m for m in step.sends if m.late is late and self.plan.wires[m].size]
        for message in sends:
            if message.kind is Kind.PARTIAL:
                self._complete(message)
            elif message.forwards is None:
                self._pack(message)
        if not receives and not sends:
            return
        if self.transport is None:
            raise AssertionError("a world of one rank has no messages")
        for message in receives:
            self._buffers[message] = self.pool.take(self.plan.wires[message].size)
        to_receive = [Parcel(m.peer, self._buffers[m], m.due) for m in receives]
        to_send = [Parcel(m.peer, self._buffers[m.forwards or m], m.due) for m in sends]
        posted = self._now()
        try:
            received, sent = self.transport.post(to_receive, to_send)
        except RuntimeError as error:
            peers = sorted({m.peer for m in (*receives, *sends)})
            raise CommunicationError(
                f"{self._where(index)}: could not start the exchange with rank{'s' * (len(peers) > 1)} "
                f"{', '.join(map(str, peers))}: {error}"
            ) from error
        self._pending.update(zip(receives, received))
        self._pending.update(zip(sends, sent))
        for message in sends:
            self.counter.sent_to[message.peer] += self.plan.wires[message].size
            self.counter.sent_messages += 1
        for message in receives:
            self.counter.received_from[message.peer] += self.plan.wires[message].size
        if self.timeline:
            self._posted.update(dict.fromkeys((*receives, *sends), posted))
            sent_bytes = sum(self.plan.wires[m].size for m in sends)
            self.timeline.add("post", self.direction, index, start, bytes=sent_bytes)

    def _wait(self, message: Message, index: int, *, received: bool) -> None:
        pending = self._pending.pop(message, None)
        if pending is None:
            return
        start = self._now()
        verb = "a message from" if received else "its message to be taken by"
        try:
            with self.counter.wait_for(f"{self._where(index)}: {verb} rank {message.peer}"):
                pending.wait(self.timeout)
        except RuntimeError as error:
            chunks = sorted({chunk for _, chunk, _ in message.items})
            shown = f"{chunks[0]} to {chunks[-1]}" if len(chunks) > 1 else str(chunks[0])
            size = self.plan.wires[message].size
            what = "nothing came from" if received else "a message was not taken by"
            raise CommunicationError(
                f"{self._where(index)}: {what} rank {message.peer} (chunks {shown}, {size} bytes, "
                f"sent in step {message.step + 1}) within {self.timeout:g} s, or it is gone; "
                f"see what rank {message.peer} printed, or raise timeout= if it is only slow. The transport: {error}"
            ) from error
        if self.timeline:
            stop, size = self.timeline.now(), self.plan.wires[message].size
            spans = (
                ("wait", index, start),
                ("receive" if received else "send", message.step, self._posted.pop(message)),
            )
            for kind, step, began in spans:
                self.timeline.add(kind, self.direction, step, began, stop=stop, peer=message.peer, bytes=size)

    def _where(self, index: int) -> str:
        steps = len(self.plan.program.steps)
        return f"rank {self.plan.rank}, {self.plan.schedule.name} {self.direction}, step {index + 1} of {steps}"

    # Parcels: inputs of tasks.

    def _inputs_of(self, side: Side, chunk: int, heads: int) -> _Rows:
        rows = self._own_rows[side].get(chunk)
        if rows is not None:
            first, last = self.plan.problem.tensors.heads(side, self.plan.schedule.heads[heads])
            own = self._own_inputs[side]
            if (first, last) != (0, self._num_heads(side)):
                own = {name: tensor[:, :, first:last] for name, tensor in own.items()}
            return _Rows(own, *rows)
        tensors, rows = self._parcels[side, chunk, heads]
        return _Rows(tensors, *rows)

    def _gather(self, side: Side, chunks: tuple[int, ...], heads: int, order: Tensor | None) -> dict[str, Tensor]:
        """The tensors of `chunks`, one behind the other or in `order`; views where they lie so."""
        found = [self._inputs_of(side, chunk, heads) for chunk in chunks]
        runs: list[_Rows] = []
        for rows in found:
            if runs and _same(runs[-1].tensors, rows.tensors) and runs[-1].stop == rows.start:
                runs[-1] = runs[-1]._replace(stop=rows.stop)
            else:
                runs.append(rows)
        gathered = {}
        for name in runs[0].tensors:
            pieces = [run.tensors[name][run.start : run.stop] for run in runs]
            whole = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
            gathered[name] = whole if order is None else whole.index_select(0, order)
        return gathered

    def _pack(self, message: Message) -> None:
        wire = self.plan.wires[message]
        buffer = self._buffers[message] = self.pool.take(wire.size)
        views = _carve(buffer, wire)
        for item in message.items:
            side, chunk, heads = item
            rows = self._inputs_of(side, chunk, heads)
            start, stop = wire.rows[item]
            for name, target in views[side, heads].items():
                target[start:stop].copy_(rows.tensors[name][rows.start : rows.stop])

    def _take_in(self, message: Message) -> None:
        wire = self.plan.wires[message]
        if not wire.size:
            # Chunks without tokens, or without heads: known, so that nothing waits for them, and never read.
            return
        views = _carve(self._buffers[message], wire)
        if message.kind is Kind.PARCEL:
            for item in message.items:
                side, _, heads = item
                self._parcels[item] = (views[side, heads], wire.rows[item])
            return
        for item in message.items:
            side, chunk, heads = item
            start, stop = wire.rows[item]
            if start == stop:
                continue
            arrived = {name: tensor[start:stop] for name, tensor in views[side, heads].items()}
            carrier, rows = self._sums_of(side, chunk, heads, message.due)
            self._add(carrier, [item], rows, arrived, whole=True)

    # Partials: results of tasks.

    def _empty_sums(self, side: Side) -> dict[str, Tensor]:
        plan = self.plan
        wide = sum_dtype(plan.problem.dtype)
        rows = plan.problem.layout(side).local_length(plan.rank)
        tensors = plan.problem.tensors
        shape = (rows, tensors.batch, self._num_heads(side))
        return {
            part.name: torch.empty(
                (*shape, tensors.head_dim) if part.vector else shape, dtype=wide, device=self.pool.device
            )
            for part in parts(Kind.PARTIAL, side, backward=plan.backward)
        }

    def _num_heads(self, side: Side) -> int:
        tensors = self.plan.problem.tensors
        return tensors.query_heads if side is Side.QUERY else tensors.key_heads

    def _sums_of(self, side: Side, chunk: int, heads: int, index: int) -> tuple[Message | None, _Rows]:
        """Where results for a chunk made in step `index` are summed: here if it is ours, else in the message home."""
        rows = self._own_rows[side].get(chunk)
        if rows is not None:
            first, last = self.plan.problem.tensors.heads(side, self.plan.schedule.heads[heads])
            own = {name: tensor[:, :, first:last] for name, tensor in self._own_sums[side].items()}
            return None, _Rows(own, *rows)
        item = (side, chunk, heads)
        carrier = self.plan.program.destined[index, item]
        wire = self.plan.wires[carrier]
        if carrier not in self._buffers:
            self._buffers[carrier] = self.pool.take(wire.size)
        return carrier, _Rows(_carve(self._buffers[carrier], wire)[side, heads], *wire.rows[item])

    def _begin(self, carrier: Message | None, side: Side, chunk: int, heads: int) -> None:
        """Write the sum over nothing, unless something is there."""
        item = (side, chunk, heads)
        if (carrier, item) in self._begun:
            return
        if carrier is not None:
            wire = self.plan.wires[carrier]
            tensors, rows = _carve(self._buffers[carrier], wire)[side, heads], wire.rows[item]
            items = [item]
        else:
            tensors, rows = self._own_sums[side], self._own_rows[side][chunk]
            if side is Side.QUERY:
                first, last = self.plan.schedule.heads[heads]
                tensors = {name: tensor[:, :, first:last] for name, tensor in tensors.items()}
                items = [item]
            else:
                # Head groups may share a key head, so at home all of them begin together.
                items = [(side, chunk, group) for group in range(len(self.plan.schedule.heads))]
        clear({name: tensor[rows[0] : rows[1]] for name, tensor in tensors.items()})
        self._begun.update((carrier, begun) for begun in items)

    def _complete(self, message: Message) -> None:
        """Before results leave: chunks for which the mask left nothing to compute get the sum over nothing."""
        if message not in self._buffers:
            self._buffers[message] = self.pool.take(self.plan.wires[message].size)
        for side, chunk, heads in message.items:
            self._begin(message, side, chunk, heads)

    def _add(
        self,
        carrier: Message | None,
        items: list[Item],
        rows: _Rows,
        new: dict[str, Tensor],
        *,
        whole: bool,
    ) -> None:
        """Merge or sum `new`, all or part of the rows of `items`, into `rows`; whole: all rows and heads of them."""
        alone = carrier is not None or items[0][0] is Side.QUERY or len(self.plan.schedule.heads) == 1
        target = {name: rows.tensors[name][rows.start : rows.stop] for name in new}
        if whole and alone and not any((carrier, item) in self._begun for item in items):
            self._begun.update((carrier, item) for item in items)
            for name, tensor in new.items():
                target[name].copy_(tensor)
            return
        for side, chunk, heads in items:
            self._begin(carrier, side, chunk, heads)
        if "lse" in target:
            merge_(target["out"], target["lse"], new["out"], new["lse"])
        else:
            for name, tensor in new.items():
                target[name].add_(tensor)

    def _scatter(
        self,
        side: Side,
        chunks: tuple[int, ...],
        heads: int,
        index: int,
        first: int,
        new: dict[str, Tensor],
        head_range: tuple[int, int],
    ) -> None:
        """Add `new`, rows from `first` on of the rows of `chunks` one behind the other, where each chunk's sums are."""
        count = next(iter(new.values())).shape[0]
        width = head_range[1] - head_range[0]
        runs: list[tuple[Message | None, list[Item], _Rows, int]] = []
        at = 0
        for chunk in chunks:
            carrier, rows = self._sums_of(side, chunk, heads, index)
            item = (side, chunk, heads)
            if runs and runs[-1][0] is carrier and runs[-1][2].stop == rows.start:
                previous = runs[-1]
                runs[-1] = (carrier, [*previous[1], item], previous[2]._replace(stop=rows.stop), previous[3])
            else:
                runs.append((carrier, [item], rows, at))
            at += rows.stop - rows.start
        for carrier, items, rows, offset in runs:
            size = rows.stop - rows.start
            low, high = max(first, offset), min(first + count, offset + size)
            if low >= high:
                continue
            part = {name: tensor[low - first : high - first] for name, tensor in new.items()}
            all_heads = next(iter(rows.tensors.values())).shape[2]
            whole = (low, high) == (offset, offset + size) and width == all_heads
            where = rows._replace(start=rows.start + low - offset, stop=rows.start + high - offset)
            if width != all_heads:
                for _, chunk, group in items:
                    self._begin(carrier, side, chunk, group)
                cut = {name: t[:, :, head_range[0] : head_range[1]] for name, t in rows.tensors.items()}
                where = where._replace(tensors=cut)
            self._add(carrier, items, where, part, whole=whole)

    # Tasks.

    def _compute(self, task: TaskPlan, index: int) -> None:
        queries = self._gather(Side.QUERY, task.queries, task.task.heads, task.query_order)
        keys = self._gather(Side.KEY, task.keys, task.task.heads, task.key_order)
        if self.plan.backward:
            queries["extra"] = self.kernel.prepare(queries["grad_out"], queries["delta"])
        query_sums = OrderedSums(task.query_order)
        key_sums = OrderedSums(task.key_order)
        for part in task.slices:
            for band in task.bands:
                for_queries, for_keys = self._call(queries, keys, band, part)
                if not query_sums.add(for_queries, band.row, part.query, queries, merged=not self.plan.backward):
                    self._scatter(Side.QUERY, task.queries, task.task.heads, index, band.row, for_queries, part.query)
                if for_keys and not key_sums.add(for_keys, band.key, part.key, keys, merged=False):
                    self._scatter(Side.KEY, task.keys, task.task.heads, index, band.key, for_keys, part.key)
        for side, sums, chunks in (
            (Side.QUERY, query_sums, task.queries),
            (Side.KEY, key_sums, task.keys),
        ):
            new = sums.in_chunks()
            if new:
                width = next(iter(new.values())).shape[2]
                self._scatter(side, chunks, task.task.heads, index, 0, new, (0, width))

    def _call(
        self, queries: dict[str, Tensor], keys: dict[str, Tensor], band: Band, part: HeadSlice
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """One kernel call; results with rows first, by name."""
        problem = self.plan.problem

        def rows(x: Tensor) -> Tensor:
            cut = x[band.row : band.row + band.rows, :, part.query[0] : part.query[1]]
            return cut.permute(1, 2, 0, *range(3, x.dim()))

        def columns(x: Tensor) -> Tensor:
            return x[band.key : band.key + band.keys, :, part.key[0] : part.key[1]].permute(1, 2, 0, 3)

        query, key, value = rows(queries["query"]), columns(keys["key"]), columns(keys["value"])
        if not self.plan.backward:
            out, lse = self.kernel.forward(query, key, value, band, scale=problem.scale, softcap=problem.softcap)
            wide = sum_dtype(problem.dtype)
            return {"out": out.permute(2, 0, 1, 3).to(wide), "lse": lse.permute(2, 0, 1).to(wide)}, {}
        grad_query, grad_key, grad_value = self.kernel.backward(
            rows(queries["grad_out"]),
            query,
            key,
            value,
            rows(queries["lse"]),
            rows(queries["extra"]),
            band,
            scale=problem.scale,
            softcap=problem.softcap,
        )
        return (
            {"grad_query": grad_query.permute(2, 0, 1, 3)},
            {"grad_key": grad_key.permute(2, 0, 1, 3), "grad_value": grad_value.permute(2, 0, 1, 3)},
        )


def _carve(buffer: Tensor, wire: Wire) -> dict[tuple[Side, int], dict[str, Tensor]]:
    """The tensors that lie in a message's bytes."""
    views: dict[tuple[Side, int], dict[str, Tensor]] = {}
    for place in wire.places:
        tensor = buffer[place.start : place.stop].view(place.dtype).view(place.shape)
        views.setdefault((place.side, place.heads), {})[place.part.name] = tensor
    return views


def _own_rows(plan: Plan, side: Side) -> dict[int, tuple[int, int]]:
    layout = plan.query_layout if side is Side.QUERY else plan.key_layout
    rows, start = {}, 0
    for offset, chunk in enumerate(layout.of(plan.rank)):
        rows[plan.rank * layout.chunks_per_rank + offset] = (start, start + len(chunk))
        start += len(chunk)
    return rows


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a is b or all(a[n].data_ptr() == b[n].data_ptr() and a[n].shape == b[n].shape for n in a)
