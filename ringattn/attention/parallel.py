"""`SequenceParallel`, the object a user holds."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ringattn.attention.function import Attention
from ringattn.attention.problem import problem_of
from ringattn.attention.schedules import name_of, prove, value_of
from ringattn.attention.terms import terms_of, words
from ringattn.kernels import check_kernel_name, choose_kernel, explain_kernels
from ringattn.kernels.kernel import Request
from ringattn.planner.choose import AUTO, choose, cluster_for
from ringattn.planner.cluster import Cluster
from ringattn.runtime.agreement import Terms, agree
from ringattn.runtime.arguments import Options
from ringattn.runtime.call import (
    Call,
)
from ringattn.runtime.collect import gather_rows
from ringattn.runtime.counter import Counter
from ringattn.runtime.exchange import Exchanges
from ringattn.runtime.executor import Executor
from ringattn.runtime.groups import make_groups
from ringattn.runtime.kept import Keeping, Kept, replay
from ringattn.runtime.plan import Plan, Problem
from ringattn.runtime.pool import BufferPool
from ringattn.runtime.timeline import Timeline
from ringattn.runtime.transport import ProcessGroupTransport, Transport, VirtualTransport
from ringattn.schedule import parse
from ringattn.schedule.value import Schedule
from ringattn.sequence.layout import LAYOUTS, Layout, make_layout
from ringattn.sequence.mask import Mask
from ringattn.sequence.suggest import suggest

_logger = logging.getLogger(__name__)

# Plans of so many different shapes and masks are kept; packed documents make a new mask of each batch.
_PLANS_KEPT = 32

# Built-in schedules are proven in the tests for every mask; up to this many ranks the proof is also cheap at run time.
_VERIFIED_WORLD = 64


class SequenceParallel:
    """Attention over a sequence whose tokens are spread over the ranks of a process group.

    group: a torch.distributed process group; the default group, or a single process where none is initialised,
        unless given. Collective: all ranks of the group make the object together.
    schedule: a name from `ringattn.schedules()`, with numbers where it takes some (`usp:heads=2`), a `Schedule`, or
        `auto`: the planner's choice for each shape on `cluster`; `chosen` tells which.
    layout: `contiguous`, `zigzag`, `striped` or `balanced`, or a `Layout` made for one length.
    backward: another schedule for the backward; that of the forward unless given (`auto` chooses for each by itself).
    kernel: `auto`, or the name of a kernel; `kernels()` shows which serve.
    timeout: seconds after which a peer that does not answer is an error.
    agreement: when the ranks check that they make the same call: `every` time, or the `first` time of each shape alone,
        which saves a round of 16 bytes a call and trusts the ranks to keep in step.
    cluster: what `auto` plans for: a described cluster, its name or file (docs/clusters.md); one of such devices as the
        ranks have, where one is shipped, unless given.
    """

    def __init__(
        self,
        group: dist.ProcessGroup | None = None,
        schedule: str | Schedule = "ring",
        layout: str | Layout = "zigzag",
        *,
        backward: str | Schedule | None = None,
        kernel: str = "auto",
        timeout: float = 600.0,
        agreement: str = "every",
        cluster: str | Cluster | None = None,
    ) -> None:
        self._groups = make_groups(group, timeout)
        self.rank = self._groups.rank if self._groups else 0
        self.world = self._groups.world if self._groups else 1
        self.transport: Transport | None = (
            ProcessGroupTransport(self._groups.upward, self._groups.downward) if self._groups else None
        )
        self._configure(schedule, layout, backward, kernel, timeout, agreement, cluster)

    @classmethod
    def over(
        cls,
        transport: Transport,
        schedule: str | Schedule = "ring",
        layout: str | Layout = "zigzag",
        *,
        backward: str | Schedule | None = None,
        kernel: str = "auto",
        cluster: str | Cluster | None = None,
    ) -> SequenceParallel:
        """One rank over a transport of one's own instead of a process group: no agreement between ranks is checked,
        and nothing is gathered. `ringattn.VirtualWorld` plays a whole world of them."""
        self = cls.__new__(cls)
        self._groups = None
        self.rank, self.world, self.transport = transport.rank, transport.world, transport
        self._configure(schedule, layout, backward, kernel, 1.0, "first", cluster)
        return self

    def under(
        self, schedule: str | Schedule, layout: str | Layout | None = None, *, backward: str | Schedule | None = None
    ) -> SequenceParallel:
        """The same ranks over the same process groups with another schedule. Not collective: no connection is made.

        layout: this object's, unless given. Counters, buffers and plans are apart. Of two objects that share their
        groups one runs at a time.
        """
        other = SequenceParallel.__new__(SequenceParallel)
        other._groups = self._groups
        other.rank, other.world, other.transport = self.rank, self.world, self.transport
        cut = self._layout if layout is None else layout
        other._configure(schedule, cut, backward, self.kernel, self.timeout, self.agreement, self._cluster)
        return other

    def _configure(
        self,
        schedule: str | Schedule,
        layout: str | Layout,
        backward: str | Schedule | None,
        kernel: str,
        timeout: float,
        agreement: str,
        cluster: str | Cluster | None,
    ) -> None:
        if agreement not in ("every", "first"):
            raise ValueError(f"agreement is 'every' or 'first', got {agreement!r}")
        if timeout <= 0:
            raise ValueError(f"timeout is a number of seconds above 0, got {timeout}")
        for spec in (schedule, backward):
            if isinstance(spec, str) and spec != AUTO:
                parse(spec)
        if isinstance(layout, str) and layout not in LAYOUTS:
            raise ValueError(f"unknown layout {layout!r}{suggest(layout, LAYOUTS)}; there are {', '.join(LAYOUTS)}")
        # Whether a kernel serves shows with a call's tensors; whether there is one of that name shows now.
        check_kernel_name(kernel)
        for value in (schedule, backward):
            if isinstance(value, Schedule) and value.world != self.world:
                raise ValueError(
                    f"schedule {value.name!r} is for {value.world} ranks, but the group has {self.world}; "
                    "build it for the group's number of ranks"
                )
        if isinstance(layout, Layout) and layout.world != self.world:
            raise ValueError(f"the layout is for {layout.world} ranks, but the group has {self.world}")
        self._cluster = cluster
        self._planned: Cluster | None = None
        self.schedule = schedule
        self.backward = schedule if backward is None else backward
        self.kernel = kernel
        self.timeout = timeout
        self.agreement = agreement
        self.counter = Counter()
        self._layout = layout
        self._pools: dict[torch.device, BufferPool] = {}
        self._calls: OrderedDict[Any, Call] = OrderedDict()
        self._timeline: Timeline | None = None
        self._keeping: list[Keeping] = []
        # What the ranks have agreed on beside attention, which keeps it with its calls.
        self._agreed: set[tuple[tuple[str, str], ...]] = set()

    # How the sequence is cut.

    def layout(self, length: int, mask: Mask | None = None) -> Layout:
        """The layout of a sequence of `length` tokens. `mask` matters to `balanced` (causal unless given), and where it
        has landmarks, whose blocks stay whole."""
        if isinstance(self._layout, Layout):
            if self._layout.length != length:
                raise ValueError(
                    f"the layout given is for {self._layout.length} tokens, and the sequence has {length}; "
                    "name a layout to cut any length"
                )
            return self._layout if mask is None else self._layout.fit(mask.blocks)
        return make_layout(self._layout, length, self.world, mask)

    def positions(self, length: int, *, mask: Mask | None = None) -> Tensor:
        """int64 [n]: the global position of each of this rank's tokens, in a sequence of `length` tokens."""
        return torch.from_numpy(self.layout(length, mask).positions(self.rank))

    def shard(self, x: Tensor, dim: int, *, mask: Mask | None = None, layout: Layout | None = None) -> Tensor:
        """This rank's part of `x` along `dim`, which counts the tokens of the whole sequence. Differentiable: each
        rank's `x` gets the gradient of its own part, and zeros elsewhere. layout: another than the object's."""
        positions = (layout or self.layout(x.shape[dim], mask)).positions(self.rank)
        return x.index_select(dim, torch.from_numpy(positions).to(x.device))

    def unshard(
        self, x: Tensor, dim: int, *, length: int | None = None, mask: Mask | None = None, layout: Layout | None = None
    ) -> Tensor:
        """The whole of which every rank holds a part along `dim`. Collective.

        length: the number of tokens of the whole; needed where shards are uneven. layout: another than the object's.
        Differentiable: each rank's part gets its gradient from all ranks, summed (in fp32 at least), as if their
        losses were added up.
        """
        dim = dim % x.dim()
        if layout is None:
            layout = self.layout(x.shape[dim] * self.world if length is None else length, mask)
        length = layout.length
        if self._groups is None:
            if self.world > 1:
                raise ValueError("unshard needs a process group, and this rank lives in a virtual world")
            self.check_shard("x", x.shape[dim], layout)
            return x
        problem = _refusal(self.check_shard, "x", x.shape[dim], layout)
        terms = {"unshard of": f"{words(x, dim)} along dim {dim}, {length} tokens", "layout": layout.name}
        self.agree(terms, problem)
        return gather_rows(x, dim, layout, self._groups)

    def gather(self, x: Tensor) -> list[Tensor]:
        """Every rank's `x`, of the same shape and dtype on all of them, in the order of ranks. Collective; not
        differentiable."""
        if self._groups is None:
            if self.world > 1:
                raise ValueError("gather needs a process group, and this rank lives in a virtual world")
            return [x]
        mine = x.detach().contiguous()
        everyone = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(everyone, mine, group=self._groups.upward)
        return everyone

    # Attention.

    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        causal: bool = True,
        window: int | None = None,
        documents: Sequence[int] | Tensor | None = None,
        key_documents: Sequence[int] | Tensor | None = None,
        scale: float | None = None,
        softcap: float | None = None,
        sinks: Tensor | None = None,
        length: int | None = None,
        key_length: int | None = None,
        layout: Layout | None = None,
        landmark_block: int | None = None,
    ) -> Tensor:
        """Attention of this rank's queries over the keys of all ranks. Collective; differentiable once.

        query: [B, n, Hq, D]; key, value: [B, m, Hkv, D] with Hq a multiple of Hkv: this rank's shards of sequences of
            `length` queries and `key_length` keys. Returns [B, n, Hq, D].
        causal, window, documents, key_documents: as in `ringattn.Mask`.
        scale: of the scores, 1/sqrt(D) unless given. softcap: scores s become softcap * tanh(s / softcap).
        sinks: [Hq], a logit a head in the softmax's denominator; its gradient is this rank's rows' share.
        length: the global number of queries; n times the ranks (or the documents' end) unless given. key_length:
            likewise; `length` unless given, or m times the ranks where m is not n.
        layout: another layout than the object's, for queries and keys of this call.
        landmark_block: landmark attention over a sequence with a landmark behind every so many tokens of a document
            (docs/landmark.md); lengths and documents count the landmarks, and shards are those of a mask with it.

        Raises ValueError (on every rank) where an argument does not fit, or where ranks make different calls.
        """
        options = Options(
            causal=causal, window=window, documents=documents, key_documents=key_documents, scale=scale,
            softcap=softcap, length=length, key_length=key_length, layout=layout, landmark_block=landmark_block,
        )  # fmt: skip
        kept = replay(self._keeping, query)
        if kept is not None:
            return Attention.apply(query, key, value, sinks, self, kept[0], kept[1:])
        call: Call | None = None
        refused: ValueError | None = None
        try:
            call = self.call(query, key, value, options, sinks=sinks)
        except ValueError as error:
            if self._groups is None:
                raise
            refused = error
        if self._groups is not None and (call is None or not call.agreed or self.agreement == "every"):
            # Before anything is posted: messages that do not fit each other end the process inside the transport.
            self.agree({} if call is None else terms_of(call, sinks), refused)
        assert call is not None
        call.agreed = True
        return Attention.apply(query, key, value, sinks, self, call, None)

    def kernels(
        self,
        dtype: torch.dtype,
        head_dim: int,
        *,
        device: str = "cpu",
        softcap: float | None = None,
        landmark_block: int | None = None,
    ) -> list[tuple[str, str]]:
        """Each kernel, with `chosen`, `serves`, or why it can't serve such tensors; in the order of preference."""
        return explain_kernels(Request(torch.device(device), dtype, head_dim, softcap, landmark_block))

    def agree(self, terms: Terms, refused: ValueError | None = None) -> None:
        """Raise ValueError on every rank where the ranks' `terms` differ (a name and what this rank says to it), or
        where a rank has `refused` something: there its own error. Collective; 16 bytes a rank."""
        if self._groups is not None:
            agree(self._groups.control, terms, refused, timeout=self.timeout)
        elif refused is not None:
            raise refused

    def agree_as_set(self, terms: Terms, refused: ValueError | None = None) -> None:
        """`agree`, as often as the object's `agreement` says: each time, or the first time of these terms alone."""
        known = tuple(sorted(terms.items()))
        if refused is not None or self.agreement == "every" or known not in self._agreed:
            self.agree(terms, refused)
            self._agreed.add(known)

    def exchanges(self, what: str, device: torch.device, *, backward: bool) -> Exchanges | None:
        """To exchange tensors on `device` with the other ranks beside attention, counted and recorded as its messages
        are; None in a world of one. what: its name in errors.

        Raises:
            ValueError: the group works on other devices, or the rank lives in a virtual world, whose ranks are played
                in turn.
        """
        if self.transport is None:
            return None
        if isinstance(self.transport, VirtualTransport):
            raise ValueError(f"{what}: a process group is needed, and this rank lives in a virtual world")
        self.check_device(what, device)
        return Exchanges(
            self.transport,
            self.counter,
            what=what,
            backward=backward,
            timeout=self.timeout,
            timeline=self._timeline,
        )

    # What was sent, held, and done when.

    @contextmanager
    def record(self) -> Iterator[Timeline]:
        """Record a timeline of all attention inside the `with`. On a GPU each event waits for the device to reach it,
        so that a recorded pass takes somewhat longer than others."""
        on_gpu = self._groups is not None and self._groups.device.type == "cuda"
        timeline = self._timeline = Timeline(self.rank, _catch_up if on_gpu else None)
        try:
            yield timeline
        finally:
            self._timeline = None

    def pool(self, device: torch.device | str = "cpu") -> BufferPool:
        """The buffers of messages on `device`: what is held, and was held at most."""
        device = torch.device(device)
        if device not in self._pools:
            self._pools[device] = BufferPool(device)
        return self._pools[device]

    def release(self) -> None:
        """Forget compiled plans and free the buffers kept for the next call."""
        self._calls.clear()
        for pool in self._pools.values():
            pool.release()

    def keeping(self, kept: Kept, *, replaying: bool) -> Keeping:
        """Inside `with sp.keeping(...)`, attention's out and lse are kept in `kept`, or, replaying, taken from it in
        the same order with neither communication nor computation. For activation checkpointing."""
        return Keeping(self._keeping, kept, replaying=replaying)

    def chosen(self) -> list[tuple[str, str, str]]:
        """(the call in words, the schedule of its forward, that of its backward) for each shape so far."""
        return [
            (f"{call.problem.query_layout.length} tokens, {call.problem.mask.describe()}", *call.names)
            for call in self._calls.values()
        ]

    # Inside.

    def call(self, query: Tensor, key: Tensor, value: Tensor, options: Options, *, sinks: Tensor | None = None) -> Call:
        """The compiled call that `attention` would make. Not collective."""
        problem = problem_of(self, query, key, value, options, sinks)
        name = (problem, query.device)
        call = self._calls.get(name)
        if call is None:
            call = self._calls[name] = self._compile(problem, query)
        self._calls.move_to_end(name)
        while len(self._calls) > _PLANS_KEPT:
            self._calls.popitem(last=False)
        return call

    def check_device(self, what: str, device: torch.device) -> None:
        """Raise ValueError where the process group does not work on `device`; `what` is there."""
        if self._groups is not None and device.type != self._groups.device.type:
            raise ValueError(
                f"{what} is on {device}, but the process group works on {self._groups.device.type}; "
                "move the tensors, or make the group with the backend of their device"
            )

    def key_layout(self, length: int) -> Layout:
        """The layout of keys that are not as many as the queries."""
        name = self._layout.name if isinstance(self._layout, Layout) else self._layout
        return make_layout(name, length, self.world)

    def check_shard(self, name: str, held: int, layout: Layout) -> None:
        """Raise ValueError where this rank's shard of `name`, of `held` tokens, isn't what `layout` gives it."""
        expected = layout.local_length(self.rank)
        if held != expected:
            each = [layout.local_length(rank) for rank in range(self.world)]
            shown = str(each) if len(each) <= 16 else f"{each[:8]} ..."
            raise ValueError(
                f"the shard of {name} on rank {self.rank} has {held} tokens, but layout {layout.name!r} of "
                f"{layout.length} tokens over {self.world} ranks gives it {expected} (by rank: {shown}); "
                "shard with sp.shard, and pass length= where the shards are uneven"
            )

    def _compile(self, problem: Problem, query: Tensor) -> Call:
        block = problem.mask.landmark_block
        request = Request(query.device, query.dtype, query.shape[3], problem.softcap, block)
        kernel = choose_kernel(self.kernel, request)
        specs = [
            self._choose(problem, query, backward=bool(backward)) if spec == AUTO else spec
            for backward, spec in enumerate((self.schedule, self.backward))
        ]
        forward, backward = (value_of(spec, problem) for spec in specs)
        call = Call(problem, forward, backward, kernel, self.rank, query.device)
        call.names = (name_of(specs[0]), name_of(specs[1]))
        for value, plan, mine in (
            (self.schedule, "forward_plan", forward),
            (self.backward, "backward_plan", backward),
        ):
            if isinstance(value, Schedule) or self.world <= _VERIFIED_WORLD:
                prove(mine, problem, backward=plan == "backward_plan")
        return call

    def planned(self, device: torch.device) -> Cluster:
        """The cluster that `auto` plans for. ValueError where none is described for such devices, or so many ranks."""
        if self._planned is None:
            name = "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device)
            named = self._cluster
            if isinstance(named, Cluster):
                self._planned = named.first(self.world)
            else:
                self._planned = cluster_for(named, name, self.world)
        return self._planned

    def _choose(self, problem: Problem, query: Tensor, *, backward: bool) -> str:
        """What `auto` stands for."""
        cluster = self.planned(query.device)
        chosen = choose(
            cluster,
            problem.query_layout.name if problem.query_layout.name in LAYOUTS else "zigzag",
            (problem.query_layout.length, problem.key_layout.length),
            problem.mask,
            problem.tensors,
            str(problem.dtype).removeprefix("torch."),
            backward=backward,
        )
        if self.rank == 0:
            word = "backward" if backward else "forward"
            _logger.info(
                "schedule=auto: %s for the %s of %d tokens, planned for cluster %s",
                chosen, word, problem.query_layout.length, cluster.name,
            )  # fmt: skip
        return chosen

    def _run(self, plan: Plan, call: Call, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        executor = Executor(
            plan,
            inputs,
            call.kernel,
            self.transport,
            self.pool(call.device),
            self.counter,
            timeout=self.timeout,
            timeline=self._timeline,
        )
        for _ in executor.phases():
            pass
        return executor.results


def _catch_up() -> None:
    torch.cuda.current_stream().synchronize()


def _refusal(check: Any, *arguments: Any) -> ValueError | None:
    try:
        check(*arguments)
    except ValueError as error:
        return error
    return None
