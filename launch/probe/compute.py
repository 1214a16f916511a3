"""Rates of the kernel that attention would choose, of matrix products and of memory, with all ranks busy at once."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from ringattn.launch.probe.wire import Wire

from ringattn.kernels import choose_kernel
from ringattn.kernels.bands import Band
from ringattn.kernels.kernel import Kernel as AttentionKernel
from ringattn.kernels.kernel import Request, sum_dtype
from ringattn.planner.cluster import Accelerator, Kernel, Rate
from ringattn.planner.costs import BACKWARD_FLOPS, FORWARD_FLOPS

HEADS, HEAD_DIM = 8, 64
_TURNS = 3
_MOST_STEPS = 50


@dataclass(frozen=True)
class Effort:
    """How much to measure. edges: block edges in tokens, by dtype. seconds: of each rate, at least. bytes: of each of
    two tensors. matrix: rows and columns of a product's factors, on a CPU."""

    edges: Mapping[torch.dtype, tuple[int, ...]]
    seconds: float = 0.2
    bytes: int = 2**26
    matrix: int = 512


def effort(device: torch.device, *, quick: bool) -> Effort:
    """On a CPU bfloat16 is computed in float32: a few edges say what the conversion costs."""
    if quick:
        return Effort({torch.float32: (64, 128)}, seconds=0.02, matrix=256)
    every = (128, 256, 512, 1024, 2048)
    if device.type == "cpu":
        return Effort({torch.float32: every, torch.bfloat16: (256, 1024)})
    longer = (*every, 4096, 8192)
    return Effort({torch.float32: every, torch.bfloat16: longer, torch.float16: longer})


def accelerator(
    wire: Wire, effort: Effort, local_ranks: int, say: Callable[[str], None]
) -> tuple[Accelerator, dict[str, str]]:
    """What each rank computes on, as it runs among the others, and the kernel's name by dtype. Collective."""
    device = wire.groups.device
    kernels, names = {}, {}
    for dtype, edges in effort.edges.items():
        chosen = choose_kernel("auto", Request(device, dtype, HEAD_DIM))
        name = str(dtype).removeprefix("torch.")
        names[name] = chosen.name
        say(f"attention in {name}, all ranks at work")
        kernels[name] = _kernel(wire, chosen, dtype, edges, effort.seconds)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        title, memory = properties.name, float(properties.total_memory)
    else:
        title = f"CPU rank, {torch.get_num_threads()} thread(s)"
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / local_ranks
    return (
        Accelerator(
            name=title,
            memory=min(wire.gather(memory)),
            memory_bandwidth=_memory_bandwidth(wire, effort),
            matmul={str(dtype).removeprefix("torch."): _matmul(wire, dtype, effort) for dtype in effort.edges},
            attention=kernels,
        ),
        names,
    )


def timed(wire: Wire, call: Callable[[], object], seconds: float) -> float:
    """Seconds of one call, with all ranks at it: the median of this rank's, then of the ranks'. Collective.

    Calls are timed some at a time: where ranks share a core, one short call may just not have been interrupted. A call
    that takes several times `seconds` is made once, after the one that warms up.
    """
    wire.barrier()
    began = time.perf_counter()
    call()
    wire.synchronize()
    first = time.perf_counter() - began
    batch, least = max(1, round(seconds / 4 / first)), 3 if first < 2 * seconds else 1
    spent: list[float] = []
    began = time.perf_counter()
    while len(spent) < least or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        for _ in range(batch):
            call()
        wire.synchronize()
        spent.append((time.perf_counter() - start) / batch)
    return statistics.median(wire.gather(statistics.median(spent)))


def timed_in_step(wire: Wire, call: Callable[[], object], seconds: float) -> float:
    """Seconds of one call of which all ranks make one and then wait for each other: as in a schedule, where a rank
    computes when it was just woken, beside others on the same cores, and all go on with the slowest. The median of
    calls. Collective.
    """
    if wire.groups.device.type != "cpu":
        # A device has its cores to itself, and a look at each call's end would add the host's time to it.
        return timed(wire, call, seconds)
    spent = [_slowest(wire, call) for _ in range(2)]
    more = min(_MOST_STEPS, round(seconds / max(spent[-1], 1e-9)))
    spent = [_slowest(wire, call) for _ in range(max(1, more))]
    return statistics.median(spent)


def _slowest(wire: Wire, call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return max(wire.gather(time.perf_counter() - start))


def _kernel(wire: Wire, chosen: AttentionKernel, dtype: torch.dtype, edges: Sequence[int], seconds: float) -> Kernel:
    launch = timed(wire, _calls(chosen, wire, dtype, 8, causal=False)[0], seconds / 2)
    forward: list[Rate] = []
    backward: list[Rate] = []
    for edge in edges:
        calls = _calls(chosen, wire, dtype, edge, causal=False)
        for call, flops, rates in zip(calls, (FORWARD_FLOPS, BACKWARD_FLOPS), (forward, backward)):
            spent = timed_in_step(wire, call, seconds)
            # What a call takes whatever it computes is a number of its own.
            rates.append(Rate(edge, flops * edge**2 * HEAD_DIM * HEADS / max(spent - launch, spent / 2)))
    # A diagonal costs more on short blocks; the longest is nearest to what long sequences come to. In turns, so that
    # what else the machine does slows both down.
    edge = max(edges)
    whole, cut = (_calls(chosen, wire, dtype, edge, causal=causal)[0] for causal in (False, True))
    ratios = [
        (timed(wire, whole, seconds / 2) - launch) / edge / (timed(wire, cut, seconds / 2) - launch) * (edge + 1) / 2
        for _ in range(_TURNS)
    ]
    causal = statistics.median(ratios)
    return Kernel(forward=tuple(forward), backward=tuple(backward), causal=min(1.0, causal), launch=launch)


def _calls(
    chosen: AttentionKernel, wire: Wire, dtype: torch.dtype, edge: int, *, causal: bool
) -> Sequence[Callable[[], object]]:
    """One forward and one backward on a block of `edge` queries and keys, as the executor would call them."""
    shape, device = (1, HEADS, edge, HEAD_DIM), wire.groups.device
    query, key, value, grad = (torch.randn(shape, device=device).to(dtype) for _ in range(4))
    band = Band(0, edge, 0, edge, None, 0 if causal else None)
    pieces = chosen.lower(band)
    scale = HEAD_DIM**-0.5
    if len(pieces) > 1:
        raise AssertionError(f"kernel {chosen.name} cuts a square block up")
    wide = sum_dtype(dtype)
    out, lse = chosen.forward(query, key, value, band, scale=scale, softcap=None)
    delta = (out.to(wide) * grad.to(wide)).sum(-1)
    lse = lse.to(wide)

    def forward() -> object:
        return chosen.forward(query, key, value, band, scale=scale, softcap=None)

    def backward() -> object:
        rows_first = chosen.prepare(grad.permute(2, 0, 1, 3), delta.permute(2, 0, 1))
        extra = rows_first.permute(1, 2, 0, *range(3, rows_first.dim()))
        return chosen.backward(grad, query, key, value, lse, extra, band, scale=scale, softcap=None)

    return forward, backward


def _memory_bandwidth(wire: Wire, effort: Effort) -> float:
    """Of adding one tensor to another: two are read and one is written."""
    a, b = (torch.ones(effort.bytes // 4, device=wire.groups.device) for _ in range(2))
    return 3 * effort.bytes / timed(wire, lambda: a.add_(b), effort.seconds)


def _matmul(wire: Wire, dtype: torch.dtype, effort: Effort) -> float:
    size = effort.matrix if wire.groups.device.type == "cpu" else 8 * effort.matrix
    a, b = (torch.randn(size, size, device=wire.groups.device).to(dtype) for _ in range(2))
    return 2 * size**3 / timed(wire, lambda: a @ b, effort.seconds)
