"""What a rank sends and holds is what the schedule promised, to the byte."""

import pytest
import torch

from ringattn import VirtualWorld, schedules
from ringattn.runtime.pool import BufferPool
from ringattn.schedule.traffic import chunk_bytes
from ringattn.schedule.verify import verify
from ringattn.sequence.blocks import visible_blocks

SCHEDULES = [*(name for name in schedules() if name != "grid"), "tokenring:back=1", "tokenring:back=2"]
MASKS = {
    "full": {"causal": False},
    "causal": {"causal": True},
    "documents": {"causal": True, "documents": (0, 30, 41, 101)},
    "window": {"causal": True, "window": 20},
}


def promise(call, *, backward):
    plan = call.backward_plan if backward else call.forward_plan
    visible = visible_blocks(call.problem.mask, plan.query_layout, plan.key_layout)
    size = chunk_bytes(plan.schedule, plan.query_layout, plan.key_layout, call.problem.tensors, backward=backward)
    return verify(plan.schedule, visible, backward=backward, size=size)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("layout", ["contiguous", "zigzag", "striped"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_bytes_sent_and_held_are_those_promised(schedule, layout, mask):
    torch.manual_seed(0)
    world, length = 4, 101
    query = torch.randn(1, length, 6, 8, dtype=torch.bfloat16, requires_grad=True)
    key, value = (torch.randn(1, length, 3, 8, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
    virtual = VirtualWorld(world, schedule, layout)
    parts = virtual.attention(query, key, value, **MASKS[mask])
    calls = [next(iter(sp._calls.values())) for sp in virtual.ranks]
    forward = promise(calls[0], backward=False)
    assert tuple(sp.counter.sent_bytes for sp in virtual.ranks) == forward.sent
    assert tuple(sp.pool().peak for sp in virtual.ranks) == forward.peak
    assert sum(sp.counter.received_bytes for sp in virtual.ranks) == sum(forward.sent)

    for sp in virtual.ranks:
        sp.counter.reset()
        sp.pool().reset_peak()
    torch.autograd.grad(parts, (query, key, value), [torch.ones_like(part) for part in parts])
    backward = promise(calls[0], backward=True)
    assert tuple(sp.counter.sent_bytes for sp in virtual.ranks) == backward.sent
    assert tuple(sp.pool().peak for sp in virtual.ranks) == backward.peak
    assert sum(sp.counter.received_bytes for sp in virtual.ranks) == sum(backward.sent)


def test_a_step_s_messages_reuse_the_memory_of_the_steps_before():
    tensors = [torch.randn(1, 128, 4, 8, requires_grad=True) for _ in range(3)]
    virtual = VirtualWorld(8, "ring", "zigzag")
    parts = virtual.attention(*tensors)
    sp = virtual.ranks[0]
    # Two shards of keys and values, whatever the number of ranks.
    assert sp.pool().peak == 2 * (2 * 16 * 4 * 8 * 4)
    for _ in range(3):
        parts = virtual.attention(*tensors)
        assert 0 < sp.pool().kept <= sp.pool().peak
    torch.autograd.grad(parts, tensors, [torch.ones_like(part) for part in parts])
    sp.release()
    assert sp.pool().kept == 0


def test_a_pool_counts_what_is_taken():
    pool = BufferPool(torch.device("cpu"))
    first, second = pool.take(100), pool.take(50)
    pool.give_back(first)
    assert (pool.held, pool.peak, pool.kept) == (50, 150, 100)
    assert pool.take(100) is first
    pool.give_back(first)
    pool.give_back(second)
    pool.reset_peak()
    assert (pool.held, pool.peak, pool.kept) == (0, 0, 150)
    # Another size takes the room of what lies ready: never more than the 150 bytes once taken together.
    third = pool.take(120)
    assert (pool.held, pool.kept) == (120, 0)
    pool.give_back(third)
