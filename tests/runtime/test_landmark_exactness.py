"""Landmark attention under every schedule x layout x number of ranks equals its reference: out, dq, dk, dv, everywhere.

Ranks are virtual, as in `test_exactness.py`, and buffers are filled with NaN when they are taken; two cases at the end
run real ones.
"""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks import refusals, run_ranks
from watching import poison_buffers

from ringattn import Mask, SequenceParallel, VirtualWorld, schedules
from ringattn.kernels.landmark_naive import landmark_attention
from ringattn.runtime.kept import Kept
from ringattn.sequence.layout import LAYOUTS, make_layout

# With a backward other than the forward's where two names stand.
SCHEDULES = [
    *((name, None) for name in schedules() if name != "grid"),
    ("ring", "tokenring"),
    ("tokenring", "ring"),
    ("allgather", "tokenring"),
    ("ulysses", "ring"),
    ("tokenring:back=1", None),
    ("ring:slices=2", None),
    ("usp:heads=2", None),
    ("tile:slices=2", "biring"),
]
WORLDS = [1, 2, 3, 4]
# A ragged last block; packed documents, of which one is empty and one shorter than a block.
CASES = {"one document": (61, 4, None), "documents": (61, 3, (0, 24, 24, 26, 61))}
HEADS = {"equal": (4, 4), "grouped": (4, 2)}


@pytest.fixture(autouse=True)
def poisoned_buffers(monkeypatch):
    poison_buffers(monkeypatch)


def problem(length, block, documents, heads, *, dtype=torch.float64, batch=1, dim=8):
    """query, key, value, the gradient of out, and what attention and its gradients are in fp64."""
    # Of its own, for ranks that are threads share the default one.
    random = torch.Generator().manual_seed(0)
    shapes = [(batch, length, count, dim) for count in (heads[0], heads[1], heads[1], heads[0])]
    query, key, value, grad = (torch.randn(shape, generator=random, dtype=torch.float64) for shape in shapes)
    grad = grad.to(dtype)
    tensors = [x.to(dtype).requires_grad_() for x in (query, key, value)]
    exact = [x.detach().double().requires_grad_() for x in tensors]
    out = landmark_attention(*exact, block=block, documents=documents)
    return tensors, grad, out.detach(), torch.autograd.grad(out, exact, grad.double())


def attend(world, tensors, grad, block, documents):
    """out on each rank with its positions, and the gradients that all ranks give together."""
    length = grad.shape[1]
    parts = world.attention(*tensors, landmark_block=block, documents=documents)
    layout = world.ranks[0].layout(length, Mask(documents=documents, landmark_block=block))
    positions = [torch.from_numpy(layout.positions(rank)) for rank in range(len(world.ranks))]
    return parts, positions, torch.autograd.grad(parts, tensors, [grad[:, p] for p in positions])


def check(world, case, block, documents, tolerance):
    """Each tensor within tolerance of its own size, on each rank."""
    tensors, grad, out, grads = case
    parts, positions, found = attend(world, tensors, grad, block, documents)
    pairs = [(part, out[:, p]) for part, p in zip(parts, positions, strict=True)] + list(zip(found, grads, strict=True))
    for mine, exact in pairs:
        if exact.numel():
            assert (mine.double() - exact).abs().max() <= tolerance * max(1.0, exact.abs().max().item())
    for sp in world.ranks:
        assert sp.pool().held == 0


def fits(schedule, world):
    return schedule != "usp:heads=2" or world % 2 == 0


# Every schedule x layout, with cases, heads, ranks and dtypes taking turns.
QUICK = [
    (
        s,
        b,
        lay,
        list(CASES)[i % 2],
        list(HEADS)[i // 2 % 2],
        WORLDS[1 + (i + i // 4) % 3] if fits(s, 3) else (2, 4)[i % 2],
    )
    for i, ((s, b), lay) in enumerate(itertools.product(SCHEDULES, LAYOUTS))
]


@pytest.mark.parametrize(("schedule", "backward", "layout", "case", "heads", "world"), QUICK)
def test_fp64(schedule, backward, layout, case, heads, world):
    length, block, documents = CASES[case]
    exact = problem(length, block, documents, HEADS[heads])
    check(VirtualWorld(world, schedule, layout, backward=backward), exact, block, documents, 1e-10)


@pytest.mark.parametrize(("schedule", "backward", "layout", "case", "heads", "world"), QUICK[::3])
def test_fp32(schedule, backward, layout, case, heads, world):
    length, block, documents = CASES[case]
    exact = problem(length, block, documents, HEADS[heads], dtype=torch.float32)
    check(VirtualWorld(world, schedule, layout, backward=backward), exact, block, documents, 1e-5)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("schedule", "backward"), SCHEDULES)
def test_all_combinations(schedule, backward):
    for (length, block, documents), heads in itertools.product(CASES.values(), HEADS.values()):
        for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
            exact = problem(length, block, documents, heads, dtype=dtype)
            for layout, world in itertools.product(LAYOUTS, WORLDS):
                if fits(schedule, world):
                    for kernel in ("landmark_tiled", "landmark_naive"):
                        ranks = VirtualWorld(world, schedule, layout, backward=backward, kernel=kernel)
                        check(ranks, exact, block, documents, tolerance)


@st.composite
def anything(draw):
    length = draw(st.integers(1, 50))
    cuts = sorted(draw(st.lists(st.integers(0, length), max_size=4)))
    names = st.sampled_from([name for name, _ in SCHEDULES if fits(name, 1)])
    return {
        "world": draw(st.integers(1, 6)),
        "schedule": draw(names),
        "backward": draw(st.one_of(st.none(), names)),
        "layout": draw(st.sampled_from(LAYOUTS)),
        "length": length,
        "block": draw(st.integers(1, 12)),
        "documents": (0, *cuts, length) if draw(st.booleans()) else None,
        "heads": draw(st.sampled_from([(4, 4), (4, 2), (6, 2)])),
    }


@settings(max_examples=40, deadline=None)
@given(anything())
def test_any_combination(case):
    exact = problem(case["length"], case["block"], case["documents"], case["heads"])
    world = VirtualWorld(case["world"], case["schedule"], case["layout"], backward=case["backward"])
    check(world, exact, case["block"], case["documents"], 1e-10)


@pytest.mark.parametrize("schedule", ["ring", "tokenring", "usp", "tile"])
def test_the_bf16_error_does_not_grow_with_the_number_of_ranks(schedule):
    length, block = 250, 15
    tensors, grad, out, grads = problem(length, block, None, (8, 8), dim=32, dtype=torch.bfloat16)
    errors = {}
    for ranks in (1, 8):
        parts, positions, found = attend(VirtualWorld(ranks, schedule, "zigzag"), tensors, grad, block, None)
        whole = torch.empty_like(tensors[0])
        for part, place in zip(parts, positions, strict=True):
            whole[:, place] = part.detach()
        pairs = zip((whole, *found), (out, *grads), strict=True)
        errors[ranks] = [((x.double() - y).norm() / y.norm()).item() for x, y in pairs]
    assert max(eight / one for eight, one in zip(errors[8], errors[1], strict=True)) <= 1.05, errors


def test_a_sink_takes_its_share_of_the_rows_softmax():
    tensors, grad, _, _ = problem(61, 4, None, (4, 2))
    sinks = torch.linspace(-1, 2, 4, dtype=torch.float64, requires_grad=True)
    one = SequenceParallel().attention(*tensors, landmark_block=4, sinks=sinks)
    wanted = torch.autograd.grad(one, (*tensors, sinks), grad)
    lse = _lse(*tensors[:2], 4)
    plain = landmark_attention(*tensors, block=4)
    assert (one - plain * torch.exp(lse - torch.logaddexp(lse, sinks)).unsqueeze(-1)).abs().max() < 1e-12
    numeric = (
        (SequenceParallel().attention(*tensors, landmark_block=4, sinks=sinks + 1e-6) * grad).sum()
        - (SequenceParallel().attention(*tensors, landmark_block=4, sinks=sinks - 1e-6) * grad).sum()
    ) / 2e-6
    assert (wanted[3].sum() - numeric).abs() < 1e-6


def _lse(query, key, block):
    """[B, S, H]: log of the summed exponentials of the scores with the own block's tokens and with past landmarks."""
    length, stride = query.shape[1], block + 1
    scores = torch.einsum("bihd,bjhd->bihj", query, key.repeat_interleave(2, dim=2)) / query.shape[3] ** 0.5
    i, j = torch.arange(length)[:, None], torch.arange(length)
    landmark, same = j % stride == block, i // stride == j // stride
    read = (same & (j <= i) & ~landmark) | ((j // stride < i // stride) & landmark)
    return scores.masked_fill(~read[:, None], -torch.inf).logsumexp(dim=-1)


def test_kept_over_a_checkpointed_region():
    tensors, grad, out, grads = problem(61, 4, None, (4, 2))
    sp, kept = SequenceParallel(), Kept()
    with sp.keeping(kept, replaying=False):
        sp.attention(*tensors, landmark_block=4)
    calls = len(sp._calls)
    with sp.keeping(kept, replaying=True):
        again = sp.attention(*tensors, landmark_block=4)
    assert len(sp._calls) == calls and (again - out).abs().max() < 1e-12
    for mine, exact in zip(torch.autograd.grad(again, tensors, grad), grads, strict=True):
        assert (mine - exact).abs().max() < 1e-12


def refused(call, *arguments, **options):
    with pytest.raises(ValueError) as error:
        call(*arguments, **options)
    return str(error.value)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"softcap": 30.0}, "landmark attention has no softcap, got landmark_block 4 with softcap 30.0; leave one"),
        ({"window": 8}, "got landmark_block 4 with window 8, leave one of them out"),
        ({"causal": False}, "got landmark_block 4 with causal=False, leave one of them out"),
        ({"landmark_block": -1}, "landmark_block is a whole number of ordinary tokens, at least 1, got -1"),
        ({"length": 61, "key_length": 40}, "has as many keys as queries, got 61 queries and 40 keys"),
        ({"documents": (0, 60)}, "has 61 tokens, but layout 'zigzag' of 60 tokens"),
    ],
)
def test_what_is_refused(options, text):
    tensors = problem(61, 4, None, (4, 2))[0]
    assert text in refused(SequenceParallel().attention, *tensors, **{"landmark_block": 4, **options})


def test_a_layout_of_one_s_own_that_cuts_a_block():
    tensors = problem(61, 4, None, (4, 2))[0]
    sp = SequenceParallel(layout=make_layout("zigzag", 61, 1))
    text = "a landmark block must lie in one chunk whole, but range(0, 31) does not begin and end where blocks of 4"
    assert text in refused(sp.attention, *tensors, landmark_block=4)


def on_a_rank(rank, schedule):
    tensors, grad, out, grads = problem(61, 4, (0, 24, 61), (4, 2))
    mask = Mask(documents=(0, 24, 61), landmark_block=4)
    sp = SequenceParallel(schedule=schedule)
    mine = [sp.shard(x.detach(), 1, mask=mask).requires_grad_() for x in tensors]
    found = sp.attention(*mine, landmark_block=4, documents=(0, 24, 61), length=61)
    positions = sp.positions(61, mask=mask)
    errors = [(found - out[:, positions]).abs().max()]
    pairs = zip(torch.autograd.grad(found, mine, grad[:, positions]), grads, strict=True)
    return [x.item() for x in (*errors, *((a - b[:, positions]).abs().max() for a, b in pairs))]


@pytest.mark.parametrize("schedule", ["tokenring", "usp"])
def test_real_ranks(schedule):
    for errors in run_ranks(4, on_a_rank, schedule, threads=True):
        assert max(errors) < 1e-10


def with_blocks_of_its_own(rank):
    tensors = [torch.randn(1, 8, 2, 8) for _ in range(3)]
    SequenceParallel().attention(*tensors, landmark_block=3 if rank == 0 else 1)


def test_ranks_that_mean_other_blocks():
    for text in refusals(2, with_blocks_of_its_own, threads=True):
        assert "the mask" in text and "landmarks behind every" in text
