"""The same over real gloo ranks: exactness, agreement between ranks, peers that die or stall, timelines."""

import os
import time

import pytest
import torch
import torch.distributed as dist
from ranks import RankFailed, refusals, run_ranks
from reference import attention, dense_mask

import ringattn
from ringattn import SequenceParallel, schedules
from ringattn.runtime.executor import CommunicationError
from ringattn.schedule import make_schedule
from ringattn.schedule.value import Shape

SCHEDULES = [name for name in schedules() if name != "grid"]
LENGTH = 37


def whole_problem(heads=(6, 3), dtype=torch.float64):
    # A generator of its own: ranks that are threads share the default one.
    random = torch.Generator().manual_seed(0)
    sizes = (heads[0], heads[1], heads[1], heads[0])
    return tuple(torch.randn(2, LENGTH, size, 8, dtype=dtype, generator=random) for size in sizes)


def exact_everywhere(rank, names, world):
    """The largest error of out and of each gradient on this rank, over schedules and masks."""
    query, key, value, grad = whole_problem()
    worst = 0.0
    for causal, window in ((True, None), (False, 9)):
        whole = [x.clone().requires_grad_() for x in (query, key, value)]
        out = attention(*whole, dense_mask(LENGTH, LENGTH, causal=causal, window=window))
        grads = torch.autograd.grad(out, whole, grad)
        for name in names:
            sp = SequenceParallel(schedule=name, timeout=30)
            assert (sp.rank, sp.world) == (rank, world)
            local = [sp.shard(x, 1).requires_grad_() for x in (query, key, value)]
            mine = sp.attention(*local, causal=causal, window=window, length=LENGTH)
            found = torch.autograd.grad(mine, local, sp.shard(grad, 1))
            for x, exact in zip((mine, *found), (out, *grads), strict=True):
                worst = max(worst, (x - sp.shard(exact, 1)).abs().max().item())
    return worst


@pytest.mark.parametrize("world", [2, 3, 4])
def test_every_schedule_is_exact_on_every_rank(world):
    assert max(run_ranks(world, exact_everywhere, SCHEDULES, world, timeout=110, threads=True)) < 1e-10


def test_real_processes_too():
    assert max(run_ranks(2, exact_everywhere, ["ring", "tokenring", "ulysses"], 2)) < 1e-10


def shard_and_back(rank):
    sp = SequenceParallel(layout="zigzag", timeout=30)
    x = torch.arange(2.0 * LENGTH * 3, dtype=torch.float64).view(2, LENGTH, 3).requires_grad_()
    local = sp.shard(x, 1)
    whole = sp.unshard(local, 1, length=LENGTH)
    assert torch.equal(whole, x)
    assert torch.equal(sp.shard(sp.positions(LENGTH).new_tensor(range(LENGTH)), 0), sp.positions(LENGTH))
    weight = torch.arange(LENGTH, dtype=torch.float64)[None, :, None] + rank
    (of_local,) = torch.autograd.grad((whole * weight).sum(), local, retain_graph=True)
    # Every rank's loss counts: the sum over ranks of (position + rank).
    expected = sp.world * sp.positions(LENGTH).double() + sum(range(sp.world))
    assert torch.equal(of_local, expected[None, :, None].expand_as(of_local))
    (of_x,) = torch.autograd.grad(local.sum(), x)
    assert of_x.sum() == local.numel() and torch.equal(sp.shard(of_x, 1), torch.ones_like(local))
    ids = torch.arange(LENGTH)
    assert torch.equal(sp.unshard(sp.shard(ids, 0), -1, length=LENGTH), ids)
    odd = ids % 2 == 1
    assert torch.equal(sp.unshard(sp.shard(odd, 0), 0, length=LENGTH), odd)


def test_shard_and_unshard_with_their_gradients():
    run_ranks(3, shard_and_back, threads=True)


def subgroups(rank):
    """Two groups of two ranks beside each other, each over its own sequence."""
    mine = None
    for members in ([0, 1], [2, 3]):
        group = dist.new_group(members)
        if rank in members:
            mine = group
    query, key, value, _ = whole_problem()
    sp = SequenceParallel(mine, schedule="tokenring", timeout=30)
    local = [sp.shard(x + rank // 2, 1) for x in (query, key, value)]
    out = sp.attention(*local, length=LENGTH)
    exact = attention(*(x + rank // 2 for x in (query, key, value)), dense_mask(LENGTH, LENGTH))
    return (out - sp.shard(exact, 1)).abs().max().item()


def test_groups_beside_each_other():
    assert max(run_ranks(4, subgroups)) < 1e-10


def outside_of_its_group(rank):
    group = dist.new_group([0])
    if rank == 1:
        SequenceParallel(group)
    else:
        raise ValueError("rank 1 alone is tested")


def test_a_group_that_a_rank_is_not_part_of():
    assert (
        "rank 1 is not part of the process group that SequenceParallel was given"
        in refusals(2, outside_of_its_group)[1]
    )


def disagree(rank, what, known):
    schedule = "ring" if what != "schedule" or rank else "tokenring"
    sp = SequenceParallel(schedule=schedule, timeout=30)
    query, key, value, _ = whole_problem()
    local = [sp.shard(x, 1) for x in (query, key, value)]
    options = {"length": LENGTH}
    if known:
        # Both calls are known to both ranks: nothing but the digests can tell them apart.
        sp.attention(*local, **options)
        sp.attention(*local, causal=False, **options)
    if what == "mask":
        options["causal"] = rank == 1
    elif what == "dtype":
        local = [x.float() if rank else x for x in local]
    elif what == "shape":
        local = [x[:1] if rank else x for x in local]
    elif what == "length":
        options["length"] = LENGTH + 1 if rank == 1 else LENGTH
    elif what == "heads":
        local = [x[..., :4] if rank else x for x in local]
    sp.attention(*local, **options)


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("mask", "the mask differs (rank 0: full"),
        ("dtype", "the dtype differs (rank 0: float64; rank 1: float32)"),
        ("shape", "the batch size differs (rank 0: 2; rank 1: 1)"),
        ("heads", "the heads and head size differs (rank 0: 6 over 3, 8; rank 1: 6 over 3, 4)"),
        ("schedule", "the schedule differs (rank 0: tokenring; rank 1: ring)"),
    ],
)
def test_ranks_that_disagree_all_hear_of_it(what, text):
    for said in refusals(2, disagree, what, False, threads=True):
        assert "the ranks of a sequence-parallel group must make the same call" in said and text in said


def test_ranks_that_disagree_in_calls_they_know():
    for said in refusals(2, disagree, "mask", True, threads=True):
        assert "the mask differs" in said


def test_what_one_rank_refuses_the_others_hear():
    first, second = refusals(2, disagree, "length", False, threads=True)
    assert second.startswith(
        "the shard of query on rank 1 has 18 tokens, but layout 'zigzag' of 38 tokens over 2 ranks"
    )
    assert first.startswith("other ranks of the sequence-parallel group refused this call: rank 1: the shard of query")


def lonely(rank, how, calls_before):
    """Rank 1 dies or stalls; what the others say, and after how long."""
    sp = SequenceParallel(schedule="ring", timeout=3, agreement="first")
    query, key, value, _ = whole_problem()
    local = [sp.shard(x, 1) for x in (query, key, value)]
    for _ in range(calls_before):
        sp.attention(*local, length=LENGTH)
    if rank == 1:
        if how == "dies":
            os._exit(7)
        time.sleep(9)
        return None
    start = time.monotonic()
    try:
        sp.attention(*local, length=LENGTH)
    except CommunicationError as error:
        return str(error), time.monotonic() - start
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("calls_before", [0, 1], ids=["first call", "known call"])
def test_a_peer_that_stalls_is_named_with_the_step(calls_before):
    said, seconds = run_ranks(2, lonely, "stalls", calls_before, timeout=40)[0]
    assert seconds < 8
    if calls_before:
        assert said.startswith("rank 0, ring forward, step 1 of 2: nothing came from rank 1 (chunks 2 to 3")
    else:
        assert said.startswith(
            "rank 0, before step 1: rank 1 of the group did not make this call within 3 s, or is gone"
        )
    assert "raise timeout= if it is only slow" in said


def dies_and_the_others_tell(rank, folder):
    try:
        said, _ = lonely(rank, "dies", 1)
    except TypeError:
        return
    (folder / f"rank{rank}").write_text(said)


def test_a_peer_that_dies_is_named_with_the_step(tmp_path):
    with pytest.raises(RankFailed):
        run_ranks(3, dies_and_the_others_tell, tmp_path, timeout=40)
    said = [(tmp_path / f"rank{rank}") for rank in (0, 2)]
    told = [file.read_text() for file in said if file.exists()]
    assert told and all("ring forward, step" in text for text in told)
    assert any("rank 1" in text for text in told)


def timeline_of_tokenring(rank):
    sp = SequenceParallel(schedule="tokenring", timeout=30)
    query, key, value, grad = whole_problem()
    local = [sp.shard(x, 1).requires_grad_() for x in (query, key, value)]
    with sp.record() as timeline:
        out = sp.attention(*local, length=LENGTH)
        torch.autograd.grad(out, local, sp.shard(grad, 1))
    sp.attention(*local, length=LENGTH)
    return timeline, sp.counter.sent_bytes


def test_a_timeline_tells_what_happened_when():
    for rank, (timeline, _) in enumerate(run_ranks(3, timeline_of_tokenring, threads=True)):
        assert timeline.rank == rank
        assert {event.direction for event in timeline.events} == {"forward", "backward"}
        computed = [event.step for event in timeline.events if event.kind == "compute" and event.direction == "forward"]
        assert computed == [0, 1, 2]
        assert all(0 <= event.start <= event.stop for event in timeline.events)
        waits = [event for event in timeline.events if event.kind == "wait"]
        assert {event.peer for event in waits} == {0, 1, 2} - {rank}
        assert timeline.seconds("compute") > 0
        # A message is under way from its post until it was waited for; what comes home is added then.
        under_way = [event for event in timeline.events if event.kind in ("send", "receive")]
        assert sorted(event.stop for event in under_way) == sorted(event.stop for event in waits)
        assert all(event.bytes > 0 for event in under_way)
        assert {event.direction for event in timeline.events if event.kind == "merge"} == {"forward", "backward"}


def two_schedules_over_the_same_groups(rank):
    sp = SequenceParallel(schedule="ring", timeout=30)
    other = sp.under("tokenring", backward="ring")
    query, key, value, _ = whole_problem()
    whole = attention(query, key, value, dense_mask(LENGTH, LENGTH))
    local = [sp.shard(x, 1) for x in (query, key, value)]
    outs = [each.attention(*local, length=LENGTH) for each in (sp, other, sp)]
    expected = sp.shard(whole, 1)
    assert all((out - expected).abs().max() < 1e-10 for out in outs)
    assert other._groups is sp._groups, "no connection of its own"
    return dict(sp.counter.sent_to), dict(other.counter.sent_to)


def test_schedules_share_process_groups_and_are_counted_apart():
    ring, tokenring = zip(*run_ranks(3, two_schedules_over_the_same_groups, threads=True))
    assert [list(sent) for sent in ring] == [[1], [2], [0]], "to the next rank alone"
    assert all(len(sent) == 2 for sent in tokenring), "queries to the next, results to all"


def a_schedule_of_one_s_own(rank):
    mine = make_schedule("grid:heads=1,queries=2,keys=2", Shape(4, 6, 3))
    sp = SequenceParallel(schedule=mine, backward="tokenring", timeout=30)
    query, key, value, grad = whole_problem()
    whole = [x.clone().requires_grad_() for x in (query, key, value)]
    grads = torch.autograd.grad(attention(*whole, dense_mask(LENGTH, LENGTH)), whole, grad)
    local = [sp.shard(x, 1).requires_grad_() for x in (query, key, value)]
    found = torch.autograd.grad(sp.attention(*local, length=LENGTH), local, sp.shard(grad, 1))
    return max((x - sp.shard(exact, 1)).abs().max().item() for x, exact in zip(found, grads, strict=True))


def test_a_schedule_value_and_another_backward():
    assert max(run_ranks(4, a_schedule_of_one_s_own, threads=True)) < 1e-10


def with_fixed_layout(rank):
    """Packed documents under a layout balanced for them, in a causal call over the same layout."""
    documents = (0, 5, 5, 20, LENGTH)
    sp = SequenceParallel(schedule="ring", layout="balanced", timeout=30)
    layout = sp.layout(LENGTH, ringattn.Mask(documents=documents))
    query, key, value, _ = whole_problem()
    places = torch.from_numpy(layout.positions(rank))
    out = sp.attention(*(x[:, places] for x in (query, key, value)), documents=documents, layout=layout)
    exact = attention(query, key, value, dense_mask(LENGTH, LENGTH, documents=documents))
    return (out - exact[:, places]).abs().max().item()


def test_a_layout_given_for_one_call():
    assert max(run_ranks(3, with_fixed_layout, threads=True)) < 1e-10
