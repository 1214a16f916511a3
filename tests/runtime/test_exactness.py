"""Every schedule x layout x mask x heads x number of ranks equals attention written out: out, dq, dk, dv, everywhere.

The ranks are virtual: plans, buffers, messages and kernels are those of real ranks, played in one process
(`tests/runtime/test_real_ranks.py` runs real ones). Buffers are filled with NaN when they are taken.
"""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import attention, dense_mask
from watching import poison_buffers

from ringattn import VirtualWorld, schedules
from ringattn.sequence.layout import LAYOUTS, make_layout

SCHEDULES = [*(name for name in schedules() if name != "grid"), "tokenring:back=1", "tokenring:back=2"]
WORLDS = [1, 2, 3, 4, 5, 8]
LENGTH = 37
MASKS = {
    "causal": {"causal": True},
    "full": {"causal": False},
    "window": {"causal": True, "window": 7},
    "documents": {"causal": True, "documents": (0, 5, 5, 20, 37)},
}
HEADS = {"equal": (4, 4), "grouped": (6, 3), "single": (4, 1)}


@pytest.fixture(autouse=True)
def poisoned_buffers(monkeypatch):
    poison_buffers(monkeypatch)


def problem(heads, mask, *, length=LENGTH, key_length=None, dtype=torch.float64, batch=1, dim=8, seed=0, **options):
    """query, key, value, the gradient of out, and what attention and its gradients are in fp64."""
    torch.manual_seed(seed)
    key_length = length if key_length is None else key_length
    query = torch.randn(batch, length, heads[0], dim, dtype=torch.float64)
    key, value = (torch.randn(batch, key_length, heads[1], dim, dtype=torch.float64) for _ in range(2))
    grad = torch.randn_like(query)
    tensors = [x.to(dtype).requires_grad_() for x in (query, key, value)]
    exact = [x.detach().double().requires_grad_() for x in tensors]
    out = attention(*exact, dense_mask(length, key_length, **mask), **options)
    grad = grad.to(dtype)
    return tensors, grad, out.detach(), torch.autograd.grad(out, exact, grad.double())


def check(world: VirtualWorld, tensors, grad, out, grads, mask, tolerance, **options):
    """out on each rank, and the gradients that all ranks give together, each within tolerance of its own size."""
    parts = world.attention(*tensors, **mask, **options)
    layout = world.ranks[0].layout(out.shape[1])
    positions = [torch.from_numpy(layout.positions(rank)) for rank in range(len(world.ranks))]
    found = torch.autograd.grad(parts, tensors, [grad[:, p] for p in positions])
    pairs = [(part, out[:, p]) for part, p in zip(parts, positions, strict=True)] + list(zip(found, grads, strict=True))
    for mine, exact in pairs:
        if exact.numel():
            assert (mine.double() - exact).abs().max() <= tolerance * max(1.0, exact.abs().max().item())
    for sp in world.ranks:
        assert sp.pool().held == 0


# Every schedule x layout x mask, with heads and ranks taking turns.
QUICK = [
    (s, lay, m, list(HEADS)[(i + i // 3) % 3], WORLDS[(i + i // 6) % 6])
    for i, (s, lay, m) in enumerate(itertools.product(SCHEDULES, LAYOUTS, MASKS))
]


@pytest.mark.parametrize(("schedule", "layout", "mask", "heads", "world"), QUICK)
def test_fp64(schedule, layout, mask, heads, world):
    case = problem(HEADS[heads], MASKS[mask])
    check(VirtualWorld(world, schedule, layout), *case, MASKS[mask], 1e-10)


@pytest.mark.parametrize(("schedule", "layout", "mask", "heads", "world"), QUICK[::3])
def test_fp32(schedule, layout, mask, heads, world):
    case = problem(HEADS[heads], MASKS[mask], dtype=torch.float32)
    check(VirtualWorld(world, schedule, layout), *case, MASKS[mask], 1e-5)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_all_combinations(schedule):
    for heads, mask in itertools.product(HEADS, MASKS):
        for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
            case = problem(HEADS[heads], MASKS[mask], dtype=dtype)
            for layout, world in itertools.product(LAYOUTS, WORLDS):
                check(VirtualWorld(world, schedule, layout), *case, MASKS[mask], tolerance)


@pytest.mark.parametrize("world", [2, 4, 6])
def test_every_point_of_the_grid(world):
    case = problem((6, 3), MASKS["causal"])
    for h, q in itertools.product(range(1, world + 1), repeat=2):
        if world % (h * q) == 0:
            spec = f"grid:heads={h},queries={q},keys={world // h // q}"
            check(VirtualWorld(world, spec, "zigzag"), *case, MASKS["causal"], 1e-10)


@pytest.mark.parametrize(
    ("schedule", "world", "heads"),
    [
        ("usp:heads=2,slices=2", 4, (8, 8)),
        ("usp:heads=2,slices=2", 6, (8, 4)),
        ("ulysses:slices=2", 4, (8, 8)),
        ("ulysses:slices=2", 3, (8, 8)),
        ("doublering:slices=3", 4, (6, 3)),
        ("tile:slices=2", 6, (4, 2)),
        ("ring:slices=4", 3, (4, 4)),
        ("biring:slices=3", 5, (6, 3)),
    ],
)
@pytest.mark.parametrize("mask", MASKS)
def test_slices_of_heads(schedule, world, heads, mask):
    case = problem(heads, MASKS[mask])
    check(VirtualWorld(world, schedule, "zigzag"), *case, MASKS[mask], 1e-10)


@st.composite
def anything(draw):
    world = draw(st.integers(1, 8))
    length = draw(st.integers(1, 40))
    cuts = sorted(draw(st.lists(st.integers(0, length), max_size=4)))
    mask = {
        "causal": draw(st.booleans()),
        "window": draw(st.one_of(st.none(), st.integers(1, 45))),
        "documents": (0, *cuts, length) if draw(st.booleans()) else None,
    }
    key_heads = draw(st.integers(1, 4))
    heads = (key_heads * draw(st.integers(1, 4)), key_heads)
    names = st.sampled_from(SCHEDULES)
    return {
        "world": world,
        "schedule": draw(names),
        "backward": draw(st.one_of(st.none(), names)),
        "layout": draw(st.sampled_from(LAYOUTS)),
        "mask": mask,
        "length": length,
        "heads": heads,
        "batch": draw(st.integers(1, 2)),
        "softcap": draw(st.one_of(st.none(), st.just(2.0))),
        "sinks": draw(st.booleans()),
    }


@settings(max_examples=120, deadline=None)
@given(anything())
def test_any_combination(case):
    sinks = torch.linspace(-1, 2, case["heads"][0], dtype=torch.float64) if case["sinks"] else None
    world = VirtualWorld(case["world"], case["schedule"], case["layout"], backward=case["backward"])
    options = {"softcap": case["softcap"], "sinks": sinks}
    tensors, grad, out, grads = problem(
        case["heads"], case["mask"], length=case["length"], batch=case["batch"], **options
    )
    check(world, tensors, grad, out, grads, case["mask"], 1e-10, **options)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("queries", "keys"), [(29, 37), (37, 29), (3, 37), (37, 1)])
@pytest.mark.parametrize("causal", [True, False])
def test_queries_and_keys_of_different_lengths(schedule, queries, keys, causal):
    mask = {"causal": causal}
    case = problem((4, 2), mask, length=queries, key_length=keys)
    check(VirtualWorld(3, schedule, "zigzag"), *case, mask, 1e-10)


def test_cross_attention_of_packed_documents():
    mask = {"causal": False, "documents": (0, 4, 20, 29), "key_documents": (0, 11, 11, 37)}
    case = problem((4, 2), mask, length=29, key_length=37)
    check(VirtualWorld(4, "tile", "contiguous"), *case, mask, 1e-10)


@pytest.mark.parametrize("schedule", ["ring", "tokenring", "ulysses"])
@pytest.mark.parametrize("length", [0, 1, 2, 5])
def test_fewer_tokens_than_ranks(schedule, length):
    case = problem((4, 2), MASKS["causal"], length=length)
    check(VirtualWorld(8, schedule, "zigzag"), *case, MASKS["causal"], 1e-10)


@pytest.mark.parametrize("schedule", ["ring", "tokenring", "usp"])
def test_the_gradient_of_sinks(schedule):
    torch.manual_seed(0)
    sinks = torch.randn(4, dtype=torch.float64, requires_grad=True)
    query, key, value = (torch.randn(2, LENGTH, 4, 8, dtype=torch.float64) for _ in range(3))
    grad = torch.randn_like(query)
    exact = attention(query, key, value, dense_mask(LENGTH, LENGTH), sinks=sinks)
    (expected,) = torch.autograd.grad(exact, sinks, grad)
    world = VirtualWorld(3, schedule, "zigzag")
    parts = world.attention(query, key, value, sinks=sinks)
    layout = world.ranks[0].layout(LENGTH)
    (found,) = torch.autograd.grad(parts, sinks, [grad[:, layout.positions(rank)] for rank in range(3)])
    assert (found - expected).abs().max() < 1e-10


# One of each kind of task: queries stay, keys stay, heads move, both move.
_KINDS = ("ring", "tokenring", "ulysses", "tile")


@pytest.mark.parametrize(
    "schedule", [name if name in _KINDS else pytest.param(name, marks=pytest.mark.slow) for name in SCHEDULES]
)
def test_long_enough_for_several_tiles_and_strips(schedule):
    mask = {"causal": True, "window": 300}
    case = problem((2, 1), mask, length=1400, dim=4)
    check(VirtualWorld(2, schedule, "zigzag"), *case, mask, 1e-10)
    check(VirtualWorld(2, schedule, "zigzag", kernel="tiled"), *case, mask, 1e-10)


def relative_error(x, exact):
    return ((x.double() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_bf16_error_does_not_grow_with_the_number_of_ranks(schedule):
    mask, length, world = MASKS["causal"], 256, 8
    tensors, grad, out, grads = problem((8, 8), mask, length=length, dim=32, dtype=torch.bfloat16)
    errors = {}
    for ranks in (1, world):
        virtual = VirtualWorld(ranks, schedule, "zigzag")
        parts = virtual.attention(*tensors)
        layout = virtual.ranks[0].layout(length)
        places = [layout.positions(rank) for rank in range(ranks)]
        found = torch.autograd.grad(parts, tensors, [grad[:, p] for p in places])
        whole = torch.empty_like(tensors[0])
        for part, place in zip(parts, places, strict=True):
            whole[:, place] = part.detach()
        errors[ranks] = [relative_error(x, y) for x, y in zip((whole, *found), (out, *grads), strict=True)]
    ratios = [eight / one for eight, one in zip(errors[world], errors[1], strict=True)]
    assert max(ratios) <= 1.05, ratios


def test_inputs_are_left_as_they_were():
    """In fp32 a cast to fp32 is no copy: nothing may be summed into what a user or a message holds."""
    tensors, grad, _, _ = problem((4, 2), MASKS["causal"], dtype=torch.float32)
    before = [x.detach().clone() for x in tensors]
    for schedule in SCHEDULES:
        world = VirtualWorld(3, schedule, "zigzag")
        parts = world.attention(*tensors)
        layout = world.ranks[0].layout(LENGTH)
        grads = [grad[:, layout.positions(rank)] for rank in range(3)]
        kept = [g.clone() for g in grads]
        torch.autograd.grad(parts, tensors, grads)
        assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(grads, kept, strict=True))


def test_two_calls_do_not_share_memory():
    tensors, _, _, _ = problem((4, 2), MASKS["causal"], dtype=torch.float32)
    world = VirtualWorld(3, "tokenring", "zigzag")
    first = [part.detach() for part in world.attention(*tensors)]
    kept = [part.clone() for part in first]
    world.attention(*(2 * x for x in tensors))
    assert all(torch.equal(a, b) for a, b in zip(first, kept, strict=True))


def test_balanced_for_documents_is_exact_too():
    documents = (0, 5, 5, 20, 37)
    from ringattn import Mask

    layout = make_layout("balanced", LENGTH, 4, Mask(documents=documents))
    mask = {"causal": True, "documents": documents}
    case = problem((4, 2), mask)
    for schedule in SCHEDULES:
        check(VirtualWorld(4, schedule, layout), *case, mask, 1e-10)
