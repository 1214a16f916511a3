"""What tasks and messages cost, against figures worked out by hand."""

import pytest

from ringattn.planner.cluster import Accelerator, Kernel, Rate
from ringattn.planner.costs import Workload, costs_of
from ringattn.schedule import make_schedule
from ringattn.schedule.prune import prune
from ringattn.schedule.traffic import Tensors
from ringattn.schedule.value import Kind, Move, Shape, Side, Task
from ringattn.sequence.blocks import visible_blocks
from ringattn.sequence.layout import make_layout
from ringattn.sequence.mask import Mask

# 2 ranks, 100 tokens each in two chunks of 50; 4 query heads on 2 key heads of 8; 2 bytes an element, sums of 4.
WORLD, TOKENS, CHUNK, HEADS, KEY_HEADS, DIM = 2, 100, 50, 4, 2, 8
FULL = Mask(causal=False)


def costs(
    *, mask=FULL, layout="contiguous", backward=False, batch=1, spec="ring", merge_passes=3, causal=0.5, launch=0.0
):
    kernel = Kernel(forward=(Rate(50, 1e6),), backward=(Rate(50, 5e5),), causal=causal, launch=launch)
    chip = Accelerator(name="chip", memory=1, memory_bandwidth=1e6, matmul={}, attention={"bfloat16": kernel})
    cut = make_layout(layout, WORLD * TOKENS, WORLD)
    workload = Workload(
        cut, cut, mask, Tensors(batch, HEADS, KEY_HEADS, DIM, item_bytes=2, sum_bytes=4), "bfloat16", merge_passes
    )
    schedule = make_schedule(spec, Shape(WORLD, HEADS, KEY_HEADS))
    return costs_of(prune(schedule, visible_blocks(mask, cut, cut)), workload, chip, backward=backward)


def computed(made, queries, keys, *, heads=0):
    return made.task(Task(0, queries, keys, heads))[0]


FULL_FLOPS = 4 * TOKENS * TOKENS * DIM * HEADS


# Computation.


def test_four_flop_forward_and_ten_backward_for_each_score_head_and_dimension():
    assert computed(costs(), (0, 1), (2, 3)) == pytest.approx(FULL_FLOPS / 1e6)
    assert computed(costs(backward=True), (0, 1), (2, 3)) == pytest.approx(2.5 * FULL_FLOPS / 5e5)


def test_batch_and_chunks_multiply():
    assert computed(costs(batch=3), (0, 1), (2, 3)) == pytest.approx(3 * FULL_FLOPS / 1e6)
    assert computed(costs(), (0,), (2, 3)) == pytest.approx(FULL_FLOPS / 2 / 1e6)


def test_a_head_group_computes_its_heads():
    assert computed(costs(spec="ulysses"), (0, 1), (2, 3), heads=1) == pytest.approx(FULL_FLOPS / 2 / 1e6)


def test_a_call_has_its_launch():
    assert computed(costs(launch=0.25), (0, 1), (2, 3)) == pytest.approx(0.25 + FULL_FLOPS / 1e6)


def test_what_the_mask_hides_costs_nothing():
    made = costs(mask=Mask(), launch=0.25)
    assert made.task(Task(0, (0, 1), (2, 3), 0)) == (0.0, 0.0)


def test_a_task_with_a_diagonal_is_one_slower_call():
    """Contiguous chunks 0 and 1 against themselves: a triangle, though the block (1, 0) is full."""
    triangle = 4 * (TOKENS * (TOKENS + 1) / 2) * DIM * HEADS
    made = costs(mask=Mask(), causal=0.5)
    # Areas are sampled at 16 rows of each chunk, which sum to within a row of the triangle.
    assert computed(made, (0, 1), (0, 1)) == pytest.approx(triangle / 0.5 / 1e6, rel=0.02)


def test_full_blocks_beside_the_diagonal_run_at_the_full_rate():
    """Zigzag: rank 0 has chunks 0 and 3 of 4. Chunk 3 sees both chunks of rank 1 whole."""
    made = costs(mask=Mask(), layout="zigzag", causal=0.5)
    assert computed(made, (1,), (2, 3)) == pytest.approx(FULL_FLOPS / 2 / 1e6)


def test_striped_blocks_are_all_causal():
    """Rank 0 holds the even positions, rank 1 the odd ones: each sees half of the other's block, along a diagonal."""
    made = costs(mask=Mask(), layout="striped", causal=0.5)
    for keys in ((0, 1), (2, 3)):
        assert computed(made, (0, 1), keys) == pytest.approx(FULL_FLOPS / 2 / 0.5 / 1e6, rel=0.03)


def test_time_for_a_score_is_interpolated_between_edges():
    kernel = Kernel(forward=(Rate(100, 1e6), Rate(200, 2e6)), backward=(Rate(100, 1.0),))
    # Linear in 1 / edge: 400 / 3 lies halfway between 1 / 100 and 1 / 200, and so does its time per FLOP.
    assert 1 / kernel.flops(400 / 3, backward=False) == pytest.approx((1 / 1e6 + 1 / 2e6) / 2)
    assert [kernel.flops(edge, backward=False) for edge in (1, 100, 200, 9999)] == [1e6, 1e6, 2e6, 2e6]
    assert kernel.flops(5, backward=True) == 1.0


def test_a_dtype_without_a_rate():
    made = costs()
    workload = Workload(
        made.workload.query_layout, made.workload.key_layout, FULL, made.workload.tensors, dtype="float8"
    )
    with pytest.raises(ValueError, match=r"'chip' has no attention rate for float8: it has bfloat16; add it"):
        costs_of(made.schedule, workload, made.accelerator, backward=False)


# Element-wise work, at 1e6 bytes/s.

OUT = TOKENS * HEADS * DIM * 4
LSE = TOKENS * HEADS * 4
GRAD_KV = 2 * TOKENS * KEY_HEADS * DIM * 4
KV = 2 * TOKENS * KEY_HEADS * DIM * 2


def test_a_result_is_merged_in_three_passes_unless_said_otherwise():
    task = Task(0, (0, 1), (2, 3), 0)
    assert costs().task(task)[1] == pytest.approx(3 * (OUT + LSE) / 1e6)
    assert costs(merge_passes=9).task(task)[1] == pytest.approx(9 * (OUT + LSE) / 1e6)
    assert costs().merge(OUT) == pytest.approx(3 * OUT / 1e6)


def test_the_backward_sums_the_gradients_of_both_sides():
    # dq has no lse beside it.
    assert costs(backward=True).task(Task(0, (0, 1), (2, 3), 0))[1] == pytest.approx(3 * (OUT + GRAD_KV) / 1e6)


def test_parcels_are_packed_where_they_are_owned():
    made = costs()

    def move(source, kind=Kind.PARCEL):
        return Move(source, 1 - source, kind, Side.KEY, (0, 1), 0, 0)

    assert made.pack([move(0)]) == pytest.approx(2 * KV / 1e6)
    assert made.pack([move(0), move(0)]) == pytest.approx(4 * KV / 1e6)
    assert made.pack([move(1)]) == 0
    assert costs(backward=True).pack([move(0, Kind.PARTIAL)]) == 0


def test_bytes_are_those_of_the_traffic():
    made = costs()
    assert made.bytes(Kind.PARCEL, Side.KEY, (0, 1), 0) == KV
    assert made.bytes(Kind.PARTIAL, Side.QUERY, (0, 1), 0) == OUT + LSE
    assert made.bytes(Kind.PARTIAL, Side.KEY, (0, 1), 0) == 0
