"""What one layer's attention takes up while it runs on the fullest rank: buffers of messages, and its task's tensors.

Both grow with a rank's tokens, so they are worked out once for a few tokens a chunk and scaled. And they follow from
the ranks that a rank meets, not from how many there are: along a ring two parcels are there at a time however long it
is, and where a line's parcels pile up they do so one by one. So a world of hundreds of ranks is read off smaller ones
of its kind: lines and rectangles of few ranks, and the straight line through two of them. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise

from ringattn.planner.training_step import FP32
from ringattn.schedule import make_schedule, parse
from ringattn.schedule.build import split_heads
from ringattn.schedule.prune import prune
from ringattn.schedule.ring import nearest_divisor
from ringattn.schedule.traffic import Tensors, chunk_bytes
from ringattn.schedule.value import Kind, Schedule, Shape, Side
from ringattn.schedule.verify import verify
from ringattn.sequence.blocks import visible_blocks
from ringattn.sequence.layout import Layout, make_layout
from ringattn.sequence.mask import Mask

# Tokens of a chunk in the worlds that figures are read off: enough that a mask cuts blocks as it cuts long ones.
_ROWS = 4
# Worlds of up to so many ranks are taken as they are; grids with routes of one's own up to more, which have more ways.
_EXACT_WORLD = 16
_EXACT_GRID = 64
# Longer lines are read off lines of these lengths, shorter ones where each of their cells is many ranks.
_LINES = (8, 16)
_SHORT_LINES = (4, 8)
_RING = 8
# Rectangles are read off those with so many ranks on the shorter side, and so many more on the longer; and off some
# with so many more.
_SIDE = 4
_FURTHER = 2

# (buffers, workspace) in bytes for each of a rank's tokens.
Figures = tuple[float, float]
Options = dict[str, int | str]

# Blocks of torch's flash attention on a CPU (aten/src/ATen/native/cpu/FlashAttentionKernel.cpp): (rows at least, rows
# of queries in a block), and keys in a block. Its backward holds two blocks of scores for each thread.
_QUERY_BLOCKS = ((768, 256), (192, 64), (0, 32))
_KEY_BLOCK = 512


@dataclass(frozen=True)
class AttentionMemory:
    """Bytes on the fullest rank. buffers: of messages, kept from call to call. workspace: of the backward of one call,
    over its inputs, while the kernel runs on the largest task."""

    buffers: int
    workspace: int


def attention_memory(
    schedule: str, backward: str | None, layout: str, tensors: Tensors, *, ranks: int, tokens: int, threads: int = 1
) -> AttentionMemory:
    """For a causal mask and `tokens` on each of `ranks` ranks, under the schedules of the forward and the backward.

    backward: None leaves the backward's part out: at least so much is taken whatever its schedule is.
    threads: of a rank that computes on a CPU; the kernel of attention has a block of scores for each.

    The backward is the larger pass: it holds gradients and the gradient's inputs beside what the forward holds. Sums
    are fp32: grad_query, grad_key and grad_value of this rank's tokens, and delta. A task holds its inputs where they
    have to be gathered, `out` made up from delta (`ringattn.kernels.kernel.stand_in_out`), its inputs in fp32 where
    they are narrower, and the kernel's gradients.
    """
    forward_buffers, _ = _figures(schedule, layout, tensors, ranks, False)
    if backward is None:
        return AttentionMemory(math.ceil(forward_buffers * tokens), 0)
    buffers, workspace = _figures(backward, layout, tensors, ranks, True)
    buffers = max(buffers, forward_buffers)
    rows = next(rows for least, rows in _QUERY_BLOCKS if tokens >= least)
    scratch = 2 * FP32 * threads * rows * min(_KEY_BLOCK, tokens)
    return AttentionMemory(math.ceil(buffers * tokens), math.ceil(workspace * tokens) + scratch)


@lru_cache(maxsize=256)
def _figures(spec: str, layout: str, tensors: Tensors, ranks: int, backward: bool) -> Figures:
    """Bytes for each of a rank's tokens in one direction: (buffers, workspace)."""
    name, options = parse(spec)
    if ranks <= (_EXACT_GRID if name == "grid" else _EXACT_WORLD):
        return _counted(spec, layout, tensors, ranks, backward)
    if name == "ulysses" or (name == "grid" and options.get("heads") == ranks):
        return _dealt_heads(tensors, ranks, backward), _workspace_of_dealt_heads(tensors, ranks, layout)
    cells = _cells(name, options, tensors, ranks)

    @cache
    def counted(queries: int, keys: int) -> Figures:
        short = _of_cells(name, options, (cells[0], queries, keys))
        return _counted(short, layout, tensors, cells[0] * queries * keys, backward)

    return _in_squares(cells[1:], counted) if min(cells[1:]) > 1 else _in_lines(name, options, cells, counted)


def _in_lines(
    name: str, options: Options, cells: tuple[int, int, int], counted: Callable[[int, int], Figures]
) -> Figures:
    """Along one line either nothing changes with its length, or each rank more adds the same."""
    heads, queries, keys = cells
    size = queries * keys

    def of(length: int) -> Figures:
        return counted(length, 1) if keys == 1 else counted(1, length)

    inner = _inner(name, options, size)
    if inner is not None:
        # Rings of rings are hop by hop too: a few ranks stand for a longer ring, on each of the two levels.
        return of(min(inner, _RING) * min(size // inner, _RING))
    short, long = _LINES if heads <= 4 else _SHORT_LINES
    return of(size) if size <= short else _extended(of(short), of(long), (size - short) / (long - short))


def _in_squares(sides: tuple[int, int], counted: Callable[[int, int], Figures]) -> Figures:
    """With queries along rows and keys along columns, what piles up on the longer way waits for the shorter: figures
    grow with the shorter side while the longer is as much longer, and from some difference on no more with that."""
    turned = sides[0] > sides[1]

    def of(shorter: int, more: int) -> Figures:
        return counted(shorter + more, shorter) if turned else counted(shorter, shorter + more)

    shorter, more = min(sides), abs(sides[0] - sides[1])
    start, few = min(shorter, _SIDE), min(more, _SIDE)
    figures = of(start, few)
    if shorter > start:
        figures = _extended(figures, of(start + _FURTHER, few), (shorter - start) / _FURTHER)
    if more > few:
        here, further = of(start, few), of(start, few + _FURTHER)
        times = (more - few) / _FURTHER
        figures = figures[0] + times * (further[0] - here[0]), figures[1] + times * (further[1] - here[1])
    return figures


def _extended(first: Figures, second: Figures, times: float) -> Figures:
    """The straight line through two points, `times` their distance from the first."""
    return first[0] + times * (second[0] - first[0]), first[1] + times * (second[1] - first[1])


def _cells(name: str, options: Options, tensors: Tensors, ranks: int) -> tuple[int, int, int]:
    """Head groups, query groups and key groups of a schedule's grid."""
    if name == "tokenring":
        return 1, 1, ranks
    if name == "tile":
        rows = int(options.get("rows", nearest_divisor(ranks, math.isqrt(ranks))))
        return 1, rows, ranks // rows
    if name == "usp":
        fitting = [d for d in range(1, ranks) if ranks % d == 0 and tensors.key_heads % d == 0]
        heads = int(options.get("heads", max(fitting, default=1)))
        return heads, ranks // heads, 1
    if name == "grid":
        return int(options.get("heads", 1)), int(options.get("queries", 1)), int(options.get("keys", 1))
    return 1, ranks, 1


def _inner(name: str, options: Options, size: int) -> int | None:
    """The neighbours in an inner ring, on a line of rings of rings."""
    if name == "doublering":
        return int(options.get("inner", nearest_divisor(size, math.isqrt(size))))
    levels = "levels" in (options.get("query_route"), options.get("key_route"))
    return int(options["inner"]) if levels else None


def _of_cells(name: str, options: Options, cells: tuple[int, int, int]) -> str:
    """A schedule of the same kind on a grid of other sides."""
    heads, queries, keys = cells
    changed = dict(options)
    if name == "grid":
        changed |= {"heads": heads, "queries": queries, "keys": keys}
    elif name == "tile":
        changed["rows"] = queries
    elif name == "usp":
        changed["heads"] = heads
    if "inner" in changed or name == "doublering":
        changed["inner"] = min(int(changed.get("inner", _RING)), _RING if min(queries, keys) == 1 else 2)
    numbers = ",".join(f"{key}={value}" for key, value in changed.items())
    return f"{name}:{numbers}" if numbers else name


def _counted(spec: str, layout: str, tensors: Tensors, ranks: int, backward: bool) -> Figures:
    """The figures of a world that is built and played by the verifier, as the mask leaves it."""
    each = make_layout(layout, 0, ranks).chunks_per_rank
    small = make_layout(layout, _ROWS * each * ranks, ranks)
    schedule = make_schedule(spec, Shape(ranks, tensors.query_heads, tensors.key_heads, each))
    cut = small.refine(schedule.chunks_per_rank // each)
    visible = visible_blocks(Mask(), cut, cut)
    pruned = prune(schedule, visible)
    size = chunk_bytes(pruned, cut, cut, tensors, backward=backward)
    peak = max(verify(pruned, visible, backward=backward, size=size).peak)
    tokens = small.local_length(0)
    largest = max(_task_bytes(pruned, cut, tensors), default=0)
    return peak / tokens, _sums(tensors) + largest / tokens


def _task_bytes(schedule: Schedule, layout: Layout, tensors: Tensors) -> Iterator[int]:
    """What the backward of each task holds while its kernel runs, apart from sums and scratch."""
    for step in schedule.steps:
        for task in step.tasks:
            group = schedule.heads[task.heads]
            query_row, key_row = _row(tensors, Side.QUERY, group), _row(tensors, Side.KEY, group)
            rows = sum(len(layout.chunks[chunk]) for chunk in task.queries)
            columns = sum(len(layout.chunks[chunk]) for chunk in task.keys)
            query_gathered, query_ordered = _gathering(task.queries, layout, task.rank)
            key_gathered, key_ordered = _gathering(task.keys, layout, task.rank)
            held = _kernel_bytes(tensors, rows * query_row, columns * key_row)
            if query_gathered:
                held += rows * tensors.row_bytes(Kind.PARCEL, Side.QUERY, group, backward=True)
            if key_gathered:
                held += columns * tensors.row_bytes(Kind.PARCEL, Side.KEY, group, backward=True)
            # Sums in the order of position, put back in the order of chunks afterwards.
            yield held + FP32 * (rows * query_row * query_ordered + 2 * columns * key_row * key_ordered)


def _kernel_bytes(tensors: Tensors, queries: int, keys: int) -> int:
    """The made-up out, inputs in fp32 (query, grad_out; key, value) where they are narrower, and three gradients."""
    wide = 0 if tensors.item_bytes >= FP32 else FP32 * (2 * queries + 2 * keys)
    return FP32 * queries + wide + FP32 * (queries + 2 * keys)


def _sums(tensors: Tensors) -> int:
    """A token's delta and gradients before they are rounded."""
    vectors = tensors.query_heads + 2 * tensors.key_heads
    return tensors.batch * FP32 * (tensors.query_heads + vectors * tensors.head_dim)


def _row(tensors: Tensors, side: Side, group: tuple[int, int]) -> int:
    start, stop = tensors.heads(side, group)
    return tensors.batch * (stop - start) * tensors.head_dim


def _gathering(chunks: tuple[int, ...], layout: Layout, rank: int) -> tuple[bool, bool]:
    """Whether a task's chunks must be copied to lie one behind the other, and whether their rows are interleaved."""
    by_position = sorted((c for c in chunks if len(layout.chunks[c])), key=lambda c: layout.chunks[c][0])
    pairs = list(pairwise(by_position))
    each = layout.chunks_per_rank
    interleaved = any(layout.chunks[a][-1] > layout.chunks[b][0] for a, b in pairs)
    apart = any(b != a + 1 or a // each != b // each for a, b in pairs)
    return apart or interleaved, interleaved


def _dealt_heads(tensors: Tensors, ranks: int, backward: bool) -> float:
    """The buffers of Ulysses, a token: while its task runs a rank holds the parcels of all others for its heads and its
    results for them, and waits for the others' results for its own tokens; before that it sends its own parcels."""
    groups = split_heads(tensors.query_heads, ranks)
    parcels = [_of_group(tensors, Kind.PARCEL, group, backward) for group in groups]
    partials = [_of_group(tensors, Kind.PARTIAL, group, backward) for group in groups]
    most = 0
    for parcel, partial in set(zip(parcels, partials)):
        others = ranks - 1
        sending = others * parcel + sum(parcels) - parcel
        computing = others * (parcel + partial) + sum(partials) - partial
        most = max(most, sending, computing)
    return float(most)


def _workspace_of_dealt_heads(tensors: Tensors, ranks: int, layout: str) -> float:
    """All tokens of all ranks for one group of heads, gathered."""
    group = max(split_heads(tensors.query_heads, ranks), key=lambda heads: heads[1] - heads[0])
    queries, keys = (ranks * _row(tensors, side, group) for side in (Side.QUERY, Side.KEY))
    gathered = ranks * _of_group(tensors, Kind.PARCEL, group, True)
    ordered = FP32 * (queries + 2 * keys) if layout == "striped" else 0
    return float(_sums(tensors) + _kernel_bytes(tensors, queries, keys) + gathered + ordered)


def _of_group(tensors: Tensors, kind: Kind, group: tuple[int, int], backward: bool) -> int:
    return sum(tensors.row_bytes(kind, side, group, backward=backward) for side in Side)
