"""Bytes that schedules promise, against the formulas of their papers."""

import pytest

from ringattn.schedule import make_schedule
from ringattn.schedule.traffic import Tensors, chunk_bytes
from ringattn.schedule.value import Kind, Shape, Side
from ringattn.schedule.verify import verify
from ringattn.sequence.layout import make_layout

# 32 tokens a rank on 4 ranks, 8 query heads and 4 key heads of 16, bf16 inputs and fp32 sums.
WORLD, TOKENS, HEADS, KEY_HEADS, DIM = 4, 32, 8, 4, 16
TENSORS = Tensors(1, HEADS, KEY_HEADS, DIM, item_bytes=2, sum_bytes=4)
Q = TOKENS * HEADS * DIM * 2
KV = 2 * TOKENS * KEY_HEADS * DIM * 2
OUT = TOKENS * HEADS * DIM * 4
LSE = TOKENS * HEADS * 4
GRAD_KV = 2 * KV


def sent(spec: str, *, backward: bool = False) -> set[int]:
    schedule = make_schedule(spec, Shape(WORLD, HEADS, KEY_HEADS))
    layout = make_layout("contiguous", WORLD * TOKENS, WORLD).refine(schedule.chunks_per_rank // 2)
    size = chunk_bytes(schedule, layout, layout, TENSORS, backward=backward)
    return set(verify(schedule, backward=backward, size=size).sent)


@pytest.mark.parametrize("spec", ["ring", "biring", "allgather", "doublering", "multiring"])
def test_schedules_whose_keys_travel(spec):
    assert sent(spec) == {3 * KV}
    assert sent(spec, backward=True) == {3 * KV + 3 * GRAD_KV}


def test_tokenring():
    assert sent("tokenring") == {3 * Q + 3 * (OUT + LSE)}
    assert sent("tokenring", backward=True) == {3 * (2 * Q + 2 * LSE) + 3 * OUT}


def test_ulysses():
    assert sent("ulysses") == {3 * (Q + KV + OUT + LSE) // 4}


def test_tiles():
    assert sent("tile:rows=2") == {(Q + OUT + LSE) + KV}


def test_rows_weigh_what_their_tensors_do():
    group = (0, HEADS)
    assert TENSORS.row_bytes(Kind.PARCEL, Side.QUERY, group, backward=False) * TOKENS == Q
    assert TENSORS.row_bytes(Kind.PARTIAL, Side.KEY, group, backward=False) == 0
    assert TENSORS.row_bytes(Kind.PARTIAL, Side.KEY, group, backward=True) * TOKENS == GRAD_KV
