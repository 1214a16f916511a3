"""The best way to train a model at a length on a cluster: degrees, layout, schedules, memory and time. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from ringattn.planner.architecture import SLIDING, Architecture, HybridArchitecture
from ringattn.planner.cluster import Cluster
from ringattn.planner.costs import Workload
from ringattn.planner.memory import MemoryEstimate, estimate, layer_bytes, least, longest
from ringattn.planner.mixing import Mixing, check_layouts, mixings, sliding_seconds
from ringattn.planner.search import Candidate, Found
from ringattn.planner.states import PLAYED_RANKS, RouteCandidate, check_played
from ringattn.planner.step import StepTime, Work, model_flops, peak, step_time
from ringattn.planner.training_step import Precision, TrainingStep
from ringattn.schedule.traffic import Tensors
from ringattn.sequence.blocks import block_areas
from ringattn.sequence.layout import make_layout
from ringattn.sequence.mask import Mask

_ITEM_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}

# So many degrees of sequence parallelism that fit are searched, from the smallest on: a larger one sends more.
_DEGREES = 3

# What an accelerator's memory is left for: the context of the driver and the libraries, and fragments.
USABLE_MEMORY = 0.92


class DoesNotFit(ValueError):
    """No plan fits in memory; the text says by how much, and what would."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be trained where. batch: sequences of a step over all ranks; one a group of ranks unless given.
    zero: the ZeRO stage; the lowest that fits unless given. sequence_parallel: ranks that share a sequence; searched
    unless given. layouts: to choose from."""

    cluster: Cluster
    sizes: Architecture
    length: int
    mask: Mask = field(default_factory=Mask)
    batch: int | None = None
    dtype: str = "bfloat16"
    layouts: tuple[str, ...] = ("zigzag", "contiguous")
    checkpointing: bool = True
    keep_attention: bool = True
    loss_chunk: int = 1024
    zero: int | None = None
    sequence_parallel: int | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One way to run it. found: the schedules of its layout, best first; forward and backward are those chosen, which
    are the best that fit. mfu: model FLOP over peak FLOP.

    Of a hybrid with linear layers, routes: of a layer's states, best first, and the one chosen; halo: seconds of a
    convolution's, forward and backward. sliding: seconds of one sliding layer, where there are such. layouts: for each,
    the best first, seconds of all layers' attention, and of what travels for linear ones, one forward and one backward.
    """

    sequence_parallel: int
    data_parallel: int
    zero: int
    layout: str
    forward: Candidate
    backward: Candidate
    found: Found
    memory: MemoryEstimate
    step: StepTime
    tokens: int
    mfu: float
    longest: int
    routes: tuple[RouteCandidate, ...] = ()
    route: RouteCandidate | None = None
    halo: tuple[float, float] = (0.0, 0.0)
    sliding: tuple[float, float] | None = None
    layouts: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.step.total


def plan(request: Request) -> list[Plan]:
    """The plans that fit, the one with most tokens a second first.

    Raises:
        DoesNotFit: none does.
        ValueError: more ranks than tokens, a batch that no degree serves, or no rate for the dtype; a mask or a layout
            that a hybrid can't have.
    """
    _check(request)
    degrees = list(_degrees(request))
    plans: list[Plan] = []
    for degree in degrees:
        zero = _lowest_stage(request, degree)
        if zero is None:
            continue
        if request.sizes.mixer() is not None and degree > PLAYED_RANKS:
            if not plans:
                check_played(degree)
            break
        made = _plan(request, degree, zero)
        if made is not None:
            plans.append(made)
        if len(plans) == _DEGREES:
            break
    if not plans:
        raise _does_not_fit(request, degrees[-1])
    return sorted(plans, key=lambda made: -made.tokens_per_second)


def _check(request: Request) -> None:
    check_layouts(request.sizes, request.layouts)
    mask = request.mask
    if isinstance(request.sizes, HybridArchitecture) and not (mask.causal and mask.window is None):
        raise ValueError(
            f"a hybrid's layers are causal, and its sliding ones have a window of their own, got {mask.describe()}: "
            "leave causal and window out"
        )


def _degrees(request: Request) -> Iterator[int]:
    world = request.cluster.world
    if request.length < world and (request.batch or world) * request.length < world:
        raise ValueError(
            f"there are more ranks than tokens: {world} ranks for sequences of {request.length} tokens; use fewer "
            "nodes or longer sequences"
        )
    if request.sequence_parallel is not None and world % request.sequence_parallel:
        raise ValueError(
            f"sequence_parallel must divide the number of ranks, got {request.sequence_parallel} for {world} ranks"
        )
    found = [
        degree
        for degree in range(1, min(world, request.length) + 1)
        if world % degree == 0
        and request.sequence_parallel in (None, degree)
        and (request.batch is None or request.batch % (world // degree) == 0)
    ]
    if not found:
        raise ValueError(
            f"a batch of {request.batch} sequences cannot be dealt out to {world} ranks: it must be a multiple of the "
            f"number of ranks over the ranks that share a sequence (of 1 where all do, up to {world})"
        )
    yield from found


def _training_step(
    request: Request, degree: int, zero: int, *, layout: str, schedule: str = "ring", state_route: str = "ring"
) -> TrainingStep:
    """Plain data parallel keeps weights in fp32, as this trainer does; ZeRO's engines keep 16-bit weights and an fp32
    master copy beside the moments."""
    item = _ITEM_BYTES[request.dtype]
    return TrainingStep(
        length=request.length,
        ranks=degree,
        schedule=schedule,
        layout=layout,
        item_bytes=item,
        precision=Precision.MASTER if zero and item == 2 else Precision.WHOLE,
        loss_chunk=request.loss_chunk,
        gradient_checkpointing=request.checkpointing,
        keep_attention=request.keep_attention,
        data_parallel=request.cluster.world // degree,
        zero=zero,
        state_route=state_route,
    )


def _memory(request: Request) -> float:
    return USABLE_MEMORY * request.cluster.accelerator.memory


def _lowest_stage(request: Request, degree: int) -> int | None:
    stages = (request.zero,) if request.zero is not None else (0, 1, 2, 3)
    for zero in stages:
        step = _training_step(request, degree, zero, layout=request.layouts[0])
        if estimate(request.sizes, step).total <= _memory(request):
            return zero
    return None


def _plan(request: Request, degree: int, zero: int) -> Plan | None:
    sizes, cluster = request.sizes, request.cluster
    near, workload = cluster.first(degree), workload_of(request, degree)
    ranked = mixings(sizes, near, workload, request.layouts)
    for mixing in ranked:
        chosen = _first_that_fits(request, degree, zero, mixing)
        if chosen is None:
            continue
        forward, backward, route, step, memory = chosen
        groups = cluster.world // degree
        each = 1 if request.batch is None else request.batch // groups
        work = _work(request, degree, step)
        slides = SLIDING in sizes.kinds()
        sliding = sliding_seconds(sizes, near, workload, forward, backward) if slides else None
        time = step_time(
            sizes,
            cluster,
            work,
            attention_forward=forward.seconds,
            attention_backward=backward.seconds,
            sliding=sliding or (0.0, 0.0),
            passing=mixing.passing(route),
        ).of_sequences(each)
        tokens = request.length * groups * each
        flops = model_flops(sizes, replace(work, sequences=groups * each))
        mfu = flops / (time.total * cluster.world * peak(cluster.accelerator, request.dtype))
        return Plan(
            sequence_parallel=degree,
            data_parallel=groups,
            zero=zero,
            layout=mixing.found.layout,
            forward=forward,
            backward=backward,
            found=mixing.found,
            memory=memory,
            step=time,
            tokens=tokens,
            mfu=mfu,
            longest=longest(sizes, step, int(_memory(request))),
            routes=mixing.routes,
            route=route,
            halo=mixing.halo,
            sliding=sliding,
            layouts={other.found.layout: other.layers for other in ranked},
        )
    return None


def _first_that_fits(
    request: Request, degree: int, zero: int, mixing: Mixing
) -> tuple[Candidate, Candidate, RouteCandidate | None, TrainingStep, MemoryEstimate] | None:
    """The fastest route of states and schedules that do; routes hold less than schedules, so they vary last."""
    found = mixing.found
    for forward in found.forward:
        under = _training_step(request, degree, zero, layout=found.layout, schedule=forward.schedule)
        if least(request.sizes, under) > _memory(request):
            continue
        for backward in found.backward:
            for route in mixing.routes or (None,):
                step = replace(under, backward=backward.schedule)
                if route is not None:
                    step = replace(step, state_route=route.route)
                memory = estimate(request.sizes, step)
                if memory.total <= _memory(request):
                    return forward, backward, route, step, memory
    return None


def workload_of(request: Request, degree: int) -> Workload:
    """The attention call of one layer, for one sequence."""
    sizes, item = request.sizes, _ITEM_BYTES[request.dtype]
    layout = make_layout(request.layouts[0], request.length, degree, request.mask)
    tensors = Tensors(1, sizes.heads, sizes.key_value_heads, sizes.head_dim, item, 4)
    return Workload(layout, layout, request.mask, tensors, request.dtype)


def _work(request: Request, degree: int, step: TrainingStep) -> Work:
    whole = make_layout("contiguous", request.length, 1)
    area = float(block_areas(request.mask, whole, whole, samples=4096).sum())
    return Work(
        tokens=-(-request.length // degree),
        area=area,
        sequences=request.cluster.world // degree,
        sequence_parallel=degree,
        dtype=request.dtype,
        item_bytes=_ITEM_BYTES[request.dtype],
        recompute=request.checkpointing,
        recompute_attention=request.checkpointing and not request.keep_attention,
        zero=step.zero,
        layer_bytes=layer_bytes(request.sizes, step),
    )


def _does_not_fit(request: Request, degree: int) -> DoesNotFit:
    """By how much the most thrifty plan misses, and what would make it fit."""
    zero = 3 if request.zero is None else request.zero
    step = _training_step(request, degree, zero, layout=request.layouts[0])
    needed = estimate(request.sizes, step)
    over = needed.total - _memory(request)
    part, size = max(needed.parts()[:-1], key=lambda entry: entry[1])
    advice = []
    fitting = longest(request.sizes, step, int(_memory(request)))
    if fitting:
        advice.append(f"length={fitting} fits")
    if not request.checkpointing:
        advice.append("checkpointing=true keeps less")
    if request.zero is not None and request.zero < 3:
        advice.append("zero=3 divides weights, gradients and moments by the number of ranks")
    nodes = _nodes_that_fit(request, zero)
    if nodes is not None:
        advice.append(f"nodes={nodes} would do")
    return DoesNotFit(
        f"the model does not fit under any plan: with all {degree} ranks on one sequence and ZeRO {zero} a rank needs "
        f"{needed.total / 1e9:.1f} GB, {over / 1e9:.1f} GB more than the {_memory(request) / 1e9:.1f} GB that "
        f"{request.cluster.accelerator.name} has to use; most of it is {part} ({size / 1e9:.1f} GB). "
        + ("; ".join(advice) if advice else "use an accelerator with more memory")
    )


def _nodes_that_fit(request: Request, zero: int) -> int | None:
    """The number of hosts, by doubling, from which on all ranks on one sequence fit; None past 1,024 times as many."""
    world = request.cluster.world
    hosts = len(set(request.cluster.hosts))
    for factor in (2**power for power in range(1, 11)):
        if world * factor > request.length:
            return None
        step = replace(
            _training_step(request, world, zero, layout=request.layouts[0]), ranks=world * factor, data_parallel=1
        )
        if estimate(request.sizes, step).total <= _memory(request):
            return hosts * factor
    return None
