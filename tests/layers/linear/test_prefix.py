"""The state that enters each chunk, and its gradients, against the recurrence in the sequence's order."""

import pytest
import torch
from layouts_of_runs import cut
from ranks import RankFailed, refusals, run_ranks

from ringattn import SequenceParallel, VirtualWorld
from ringattn.layers.linear.effect import Effect
from ringattn.layers.linear.prefix import entering_states, sizes_of
from ringattn.planner.cluster import Accelerator, Cluster, Kernel, Link, Rate
from ringattn.schedule.states import promised_bytes
from ringattn.sequence.layout import make_layout
from ringattn.sequence.stretches import stretches

BATCH, HEADS, KEY, VALUE = 2, 3, 4, 5
ROUTES = ("allgather", "ring", "scan", "pipeline:slices=2", "pipeline:slices=5")
KINDS = {"scalar": (), "diagonal": (KEY,), "dense": (KEY, KEY)}


def whole_problem(layout, kind, dtype=torch.float64):
    """transition, addition and the loss's weights of every chunk; the transition of one in three is a reset."""
    random = torch.Generator().manual_seed(layout.world)
    chunks = len(layout.chunks)
    transition = torch.rand(chunks, BATCH, HEADS, *KINDS[kind], dtype=dtype, generator=random)
    transition[1::3] = 0
    addition, weight = torch.randn(2, chunks, BATCH, HEADS, KEY, VALUE, dtype=dtype, generator=random)
    for number, chunk in enumerate(layout.chunks):
        if not len(chunk):
            transition[number] = torch.eye(KEY, dtype=dtype) if kind == "dense" else 1
            addition[number] = 0
            weight[number] = 0
    return transition, addition, weight


def in_order(layout, transition, addition):
    """The naive recurrence over all chunks, written out."""
    state = torch.zeros_like(addition[0])
    entering = [None] * len(layout.chunks)
    for number in sorted(range(len(layout.chunks)), key=lambda n: (layout.chunks[n].start, len(layout.chunks[n]))):
        entering[number] = state
        each = transition[number]
        if each.ndim == state.ndim:
            state = torch.einsum("bhij,bhjv->bhiv", each, state) + addition[number]
        else:
            state = each.reshape(*each.shape, *[1] * (state.ndim - each.ndim)) * state + addition[number]
    return torch.stack(entering)


def errors(rank, world, layouts, kinds, routes):
    """The largest error of the states and of both gradients on this rank, and of the bytes against the promise."""
    sp = SequenceParallel(timeout=60)
    worst, wrong_bytes = 0.0, []
    for name in layouts:
        layout = cut(name, world)
        mine = slice(rank * layout.chunks_per_rank, (rank + 1) * layout.chunks_per_rank)
        full = torch.tensor([len(chunk) > 0 for chunk in layout.chunks])[mine]
        for kind in kinds:
            transition, addition, weight = whole_problem(layout, kind)
            whole = transition.requires_grad_(), addition.requires_grad_()
            exact = in_order(layout, *whole)
            exact_grads = torch.autograd.grad((exact * weight).sum(), whole)
            for route in routes:
                local = [x.detach()[mine].clone().requires_grad_() for x in whole]
                effects = Effect(*local)
                holders = [stretch.rank for stretch in stretches(layout)]
                sp.counter.reset()
                entering = entering_states(effects, layout, sp, route=route)
                sent = [sp.counter.sent_bytes]
                grads = torch.autograd.grad((entering * weight[mine]).sum(), local)
                sent.append(sp.counter.sent_bytes - sent[0])
                for found, expected in zip((entering, *grads), (exact, *exact_grads)):
                    difference = (found - expected[mine])[full]
                    worst = max(worst, difference.abs().max().item() if difference.numel() else 0.0)
                sizes = sizes_of(effects)
                promise = [promised_bytes(route, world, holders, sizes, backward=bool(b)).sent[rank] for b in range(2)]
                if sent != promise:
                    wrong_bytes.append((name, kind, route, sent, promise))
    return worst, wrong_bytes


@pytest.mark.parametrize("world", [2, 3, 4])
def test_states_and_gradients_are_exact_and_bytes_as_promised_on_every_rank(world):
    layouts = ("contiguous", "zigzag", "balanced", "shuffled", "short", "fewer tokens than ranks")
    for worst, wrong_bytes in run_ranks(world, errors, world, layouts, KINDS, ROUTES, timeout=110, threads=True):
        assert worst < 1e-10
        assert wrong_bytes == []


def test_one_rank_alone_needs_no_group():
    assert errors(0, 1, ("contiguous", "zigzag", "balanced", "shuffled"), KINDS, ROUTES) == (pytest.approx(0), [])


def test_real_processes_too():
    assert max(worst for worst, _ in run_ranks(2, errors, 2, ("zigzag",), ("dense",), ROUTES)) < 1e-10


def bytes_sent(rank, length, route):
    sp = SequenceParallel(timeout=60)
    layout = make_layout("zigzag", length, sp.world)
    effects = Effect(torch.rand(2, 1, 4, 8), torch.rand(2, 1, 4, 8, 8).requires_grad_())
    entering_states(effects, layout, sp, route=route).sum().backward()
    return sp.counter.sent_bytes


def test_what_travels_does_not_grow_with_the_sequence():
    # A state is 4 heads x 8 x 8 numbers of 4 bytes. Zigzag over 2 ranks: 0, 1, 1, 0, so one hop there and one back.
    state, transition = 4 * 8 * 8 * 4, 4 * 8 * 4
    for length in (4, 4096):
        assert run_ranks(2, bytes_sent, length, "ring", threads=True) == [2 * state, 2 * state]
        # The first stretch's effect goes without its transition, in the forward and, from the end, in the backward.
        gathered = run_ranks(2, bytes_sent, length, "allgather", threads=True)
        assert gathered == [2 * state, 2 * (state + transition)]


def some_call(rank, what):
    sp = SequenceParallel(timeout=60)
    layout = make_layout("striped" if what == "striped" else "zigzag", 16, sp.world)
    route = "ring" if what == "route" and rank else "rign" if what == "name" else "allgather"
    slices = "pipeline:slices=9" if what == "slices" else route
    dtype = torch.bfloat16 if what == "bfloat16" else torch.float32
    heads = 3 + (what == "heads" and rank == 1)
    chunks = 3 if what == "chunks" and rank == 0 else 2
    effects = Effect(torch.ones(chunks, 1, heads, dtype=dtype), torch.ones(chunks, 1, heads, 4, 5, dtype=dtype))
    return entering_states(effects, layout, sp, route=slices)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (
            "striped",
            "layout 'striped' deals tokens out to the ranks one by one; choose layout contiguous, zigzag or balanced",
        ),
        ("name", "unknown state route 'rign' (did you mean 'ring'?); there are allgather, pipeline, ring, scan"),
        ("slices", "3 heads and 5 value columns can be cut into 5 slices at most, got 9; name fewer"),
        ("bfloat16", "both float32 or both float64"),
    ],
)
def test_what_does_not_serve_is_refused_on_every_rank(what, said):
    for text in refusals(2, some_call, what, threads=True):
        assert said in text


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("route", "the states' route differs (rank 0: allgather; rank 1: ring)"),
        ("heads", "the state [B, H, dk, dv] differs (rank 0: [1, 3, 4, 5]; rank 1: [1, 4, 4, 5])"),
        ("chunks", "rank 0 has 2 chunks in layout 'zigzag', and effects of 3 were given"),
    ],
)
def test_ranks_that_make_different_calls_all_hear_of_it(what, said):
    for text in refusals(2, some_call, what, threads=True):
        assert said in text


def test_a_virtual_world_is_refused():
    sp = VirtualWorld(2).ranks[0]
    effects = Effect(torch.ones(2, 1, 3), torch.ones(2, 1, 3, 4, 5))
    with pytest.raises(ValueError, match="a process group is needed, and this rank lives in a virtual world"):
        entering_states(effects, make_layout("zigzag", 16, 2), sp)


def chosen_by_itself(rank):
    """Four ranks behind a slow switch, and states of 16 x 16: one of the states, and the messages sent."""
    kernel = Kernel(forward=(Rate(1, 1e10),), backward=(Rate(1, 1e10),))
    chip = Accelerator(name="core", memory=1e9, memory_bandwidth=1e10, matmul={}, attention={"float32": kernel})
    ranks = tuple(f"gpu{number}" for number in range(4))
    links = tuple(Link(rank, "switch", 1e3, 1e3) for rank in ranks)
    sp = SequenceParallel(timeout=60, cluster=Cluster("slow", ranks, ranks, chip, links))
    effects = Effect(torch.full((2, 1, 1, 16), 0.5), torch.ones(2, 1, 1, 16, 16))
    layout = make_layout("contiguous", 64, 4)
    entering = entering_states(effects, layout, sp, route="auto")
    assert torch.equal(entering, entering_states(effects, layout, sp, route="ring"))
    return entering[0, 0, 0, 0, 0].item(), sp.counter.sent_messages


def test_a_route_is_chosen_for_the_cluster():
    # A state of ones that is halved at each chunk: 0, then 1 + 1/2 after two of them, and so on. The ring takes a
    # message to the next rank, and the pipeline of 16 slices that was chosen 16.
    found = run_ranks(4, chosen_by_itself, threads=True)
    assert found == [(0, 17), (1.5, 17), (1.875, 17), (1.96875, 0)]


def test_ranks_agree_once_where_the_first_time_is_enough(monkeypatch):
    for agreement, times in (("every", 2), ("first", 1)):
        sp, calls = SequenceParallel(agreement=agreement), []
        monkeypatch.setattr(sp, "agree", lambda terms, refused=None, calls=calls: calls.append(terms))
        for _ in range(2):
            entering_states(Effect(torch.ones(2, 1, 3), torch.ones(2, 1, 3, 4, 5)), make_layout("zigzag", 16, 1), sp)
        assert len(calls) == times


def one_leaves(rank):
    sp = SequenceParallel(timeout=1.5)
    effects = Effect(torch.ones(2, 1, 3), torch.ones(2, 1, 3, 4, 5).requires_grad_())
    entering = entering_states(effects, make_layout("zigzag", 16, sp.world), sp, route="ring")
    if rank:
        entering.sum().backward()
    else:
        import time

        time.sleep(4)


def test_a_rank_that_does_not_answer_is_named():
    with pytest.raises(
        RankFailed, match=r"rank 1, linear states, route ring, backward, step 1: nothing came from rank 0"
    ):
        run_ranks(2, one_leaves, threads=True)
