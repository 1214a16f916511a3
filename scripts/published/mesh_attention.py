"""Mesh-Attention's abstract (arXiv 2512.20968): 2-D tiles send up to 85.4 % less than ring attention on 256 GPUs, and
79.0 % less on average.

The abstract names no head shapes. Assumed are the two that such papers use: LLaMA-2 7B's (32 heads, multi-head) and
Llama-3 8B's (32 query heads, 8 key and value heads), forward, inputs in bf16 and partial results in fp32. The tile is
the one that sends least. Bytes are counted from the schedules, and do not depend on the sequence's length.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

from published.table import Constant, Row, Table
from ringattn.schedule import make_schedule
from ringattn.schedule.messages import messages
from ringattn.schedule.traffic import Tensors, chunk_bytes
from ringattn.schedule.value import Shape
from ringattn.sequence.layout import make_layout

RANKS, HEADS, HEAD_DIM = 256, 32, 128
KEY_HEADS = {"LLaMA-2 7B": 32, "Llama-3 8B": 8}
MOST, ON_AVERAGE = 85.4, 79.0


def tensors(key_heads: int) -> Tensors:
    return Tensors(1, HEADS, key_heads, HEAD_DIM, item_bytes=2, sum_bytes=4)


@lru_cache(maxsize=64)
def sent(spec: str, ranks: int, key_heads: int, *, backward: bool = False) -> int:
    """Bytes that the busiest rank sends, with two tokens on each."""
    schedule = make_schedule(spec, Shape(ranks, HEADS))
    layout = make_layout("contiguous", 2 * ranks, ranks)
    size = chunk_bytes(schedule, layout, layout, tensors(key_heads), backward=backward)
    by_rank: Counter[int] = Counter()
    for step in schedule.steps:
        for envelope, moves in messages(step, backward=backward).items():
            by_rank[envelope.source] += sum(
                size(move.kind, move.side, chunk, move.heads) for move in moves for chunk in move.chunks
            )
    return max(by_rank.values())


def by_formula(rows: int, ranks: int, key_heads: int) -> int:
    """What `sent` counts in the forward, from the sizes: a tile of `rows` query groups; `ranks` of them are a ring."""
    query, out, lse = 2 * HEADS * HEAD_DIM * 2, 2 * HEADS * HEAD_DIM * 4, 2 * HEADS * 4
    key_value = 2 * 2 * key_heads * HEAD_DIM * 2
    return (ranks // rows - 1) * (query + out + lse) + (rows - 1) * key_value


def saved(key_heads: int) -> tuple[float, int]:
    """Percent less than the ring, and the rows of the tile that does it."""
    every = [rows for rows in range(1, RANKS + 1) if RANKS % rows == 0]
    rows = min(every, key=lambda rows: by_formula(rows, RANKS, key_heads))
    share = sent(f"tile:rows={rows}", RANKS, key_heads) / sent("ring", RANKS, key_heads)
    return 100 * (1 - share), rows


def table() -> Table:
    found = {model: saved(key_heads) for model, key_heads in KEY_HEADS.items()}
    shares = [share for share, _ in found.values()]
    return Table(
        "C. Mesh-Attention's abstract: bytes saved by a tile against a ring on 256 GPUs",
        "% less",
        (
            Row("at most", MOST, max(shares)),
            Row("on average", ON_AVERAGE, sum(shares) / len(shares)),
        ),
        tuple(
            Constant(
                model,
                f"{share:.1f} % less with {rows} x {RANKS // rows} tiles",
                f"{HEADS} query heads, {KEY_HEADS[model]} key and value heads of {HEAD_DIM}, forward, bf16, "
                "partials in fp32; an assumption, the abstract names none",
            )
            for model, (share, rows) in found.items()
        ),
        points=True,
    )
