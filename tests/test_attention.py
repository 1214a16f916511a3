"""What `SequenceParallel` takes and refuses, on a single process."""

import numpy as np
import pytest
import torch
from described import call, switch

import ringattn
from ringattn import Mask, SequenceParallel
from ringattn.planner.search import search
from ringattn.schedule import make_schedule
from ringattn.schedule.value import Shape
from ringattn.sequence.layout import make_layout

SP = SequenceParallel()


def tensors(length=8, heads=(4, 2), dim=8, **options):
    query = torch.randn(1, length, heads[0], dim, **options)
    key, value = (torch.randn(1, length, heads[1], dim, **options) for _ in range(2))
    return query, key, value


def refused(call, *arguments, **options):
    with pytest.raises(ValueError) as error:
        call(*arguments, **options)
    return str(error.value)


def test_a_single_process_is_a_world_of_one():
    assert (SP.rank, SP.world) == (0, 1)
    x = torch.randn(2, 5, 3)
    assert torch.equal(SP.shard(x, 1), x) and torch.equal(SP.unshard(x, 1), x)
    assert SP.positions(4).tolist() == [0, 1, 2, 3]


def test_against_torch():
    query, key, value = tensors(heads=(4, 4), dtype=torch.float64)
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (query, key, value)), is_causal=True
    ).transpose(1, 2)
    assert (SP.attention(query, key, value) - expected).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_out_and_gradients_have_the_dtype_and_shape_of_the_inputs(dtype):
    inputs = [x.to(dtype).requires_grad_() for x in tensors()]
    out = SP.attention(*inputs)
    assert out.dtype == dtype and out.shape == inputs[0].shape and out.is_contiguous()
    for x, grad in zip(inputs, torch.autograd.grad(out.sum(), inputs), strict=True):
        assert grad.dtype == dtype and grad.shape == x.shape


def test_any_strides_will_do():
    query, key, value = (x.transpose(2, 3).contiguous().transpose(2, 3) for x in tensors(dtype=torch.float64))
    plain = SP.attention(*(x.contiguous() for x in (query, key, value)))
    assert torch.equal(SP.attention(query, key, value), plain)


def test_documents_may_be_a_tensor():
    inputs = tensors(dtype=torch.float64)
    bounds = torch.tensor([0, 3, 8], dtype=torch.int32)
    assert torch.equal(SP.attention(*inputs, documents=bounds), SP.attention(*inputs, documents=[0, 3, 8]))


def test_a_row_that_sees_nothing_is_zero_and_has_no_gradient():
    query, key, value = (x.requires_grad_() for x in tensors(dtype=torch.float64))
    out = SP.attention(query, key[:, :3], value[:, :3])
    assert out[:, :5].eq(0).all() and out[:, 5:].ne(0).all()
    (grad,) = torch.autograd.grad(out.sum(), query)
    assert grad[:, :5].eq(0).all() and grad.isfinite().all()


def test_twice_differentiated_is_refused():
    inputs = [x.requires_grad_() for x in tensors()]
    (grad,) = torch.autograd.grad(SP.attention(*inputs).pow(2).sum(), inputs[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_plans_are_kept_for_a_while_and_no_longer():
    sp = SequenceParallel()
    inputs = tensors(length=64)
    for cut in range(1, 60):
        sp.attention(*inputs, documents=(0, cut, 64))
    assert len(sp._calls) == 32
    sp.release()
    assert len(sp._calls) == 0


def test_the_schedules_by_name():
    assert ringattn.schedules() == [
        "allgather",
        "biring",
        "doublering",
        "grid",
        "multiring",
        "ring",
        "tile",
        "tokenring",
        "ulysses",
        "usp",
    ]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"schedule": "rign"}, "unknown schedule 'rign' (did you mean 'ring'?)"),
        ({"backward": "tokenrin"}, "unknown schedule 'tokenrin' (did you mean 'tokenring'?)"),
        ({"layout": "zig-zag"}, "unknown layout 'zig-zag' (did you mean 'zigzag'?)"),
        ({"kernel": "naiv"}, "unknown kernel 'naiv' (did you mean 'naive'?)"),
        ({"timeout": 0.0}, "timeout is a number of seconds above 0, got 0.0"),
        ({"agreement": "never"}, "agreement is 'every' or 'first', got 'never'"),
        ({"schedule": make_schedule("ring", Shape(2))}, "schedule 'ring' is for 2 ranks, but the group has 1"),
        ({"layout": make_layout("zigzag", 8, 2)}, "the layout is for 2 ranks, but the group has 1"),
    ],
)
def test_what_cannot_be_made(options, text):
    assert text in refused(SequenceParallel, **options)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda q, k, v: (q[0], k, v), "query must be [batch, tokens, heads, head size], got the shape (8, 4, 8)"),
        (lambda q, k, v: (q, k, v[..., :4]), "key and value must have the same shape"),
        (lambda q, k, v: (q.expand(2, -1, -1, -1), k, v), "query and key must have the same batch size, got 2 and 1"),
        (lambda q, k, v: (q[..., :4], k, v), "query and key must have the same head size, got 4 and 8"),
        (lambda q, k, v: (q[:, :, :3], k, v), "must be a multiple of the number of key and value heads, got 3 and 2"),
        (lambda q, k, v: (q.double(), k, v), "query, key and value must have the same dtype"),
        (lambda q, k, v: (q.int(), k.int(), v.int()), "must be floating point (16 bits or more), got torch.int32"),
        (lambda q, k, v: (q.to("meta"), k, v), "query, key and value must be on one device, got meta, cpu and cpu"),
    ],
)
def test_tensors_that_do_not_fit(change, text):
    assert text in refused(SP.attention, *change(*tensors()))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"window": 0}, "window must be at least 1 (a query's own key counts), got 0"),
        ({"softcap": 0.0}, "softcap must be above 0, got 0.0; pass softcap=None for none"),
        ({"softcap": -1.0}, "softcap must be above 0, got -1.0"),
        ({"documents": (0, 3, 7)}, "the shard of query on rank 0 has 8 tokens, but layout 'zigzag' of 7 tokens"),
        ({"documents": (0, 3, 7), "length": 8}, "documents must end with the length of the sequence: it ends with 7"),
        ({"documents": (0, 5, 3, 8)}, "never fall or go below 0: 5 is followed by 3"),
        ({"documents": (0, 3.5, 8)}, "documents holds whole numbers, cumulative lengths"),
        ({"length": 9}, "has 8 tokens, but layout 'zigzag' of 9 tokens over 1 ranks gives it 9 (by rank: [9])"),
        ({"sinks": torch.zeros(3)}, "sinks must be one number a query head, [4], on the query's device"),
        ({"layout": make_layout("zigzag", 8, 2)}, "the layout is for 2 ranks, but the group has 1"),
    ],
)
def test_options_that_do_not_fit(options, text):
    assert text in refused(SP.attention, *tensors(), **options)


def test_a_layout_made_for_another_length():
    sp = SequenceParallel(layout=make_layout("zigzag", 16, 1))
    assert "the layout given is for 16 tokens, and the sequence has 8" in refused(sp.attention, *tensors())


def test_a_schedule_value_for_other_heads_or_chunks():
    sp = SequenceParallel(schedule=make_schedule("ring", Shape(1, 8, 8)))
    assert "schedule 'ring' is for 8 query heads, but query has 4" in refused(sp.attention, *tensors())
    sp = SequenceParallel(schedule=make_schedule("ring", Shape(1, 4, 2, chunks_per_rank=3)))
    assert "has 3 chunks a rank, which must be a multiple of the layout's 2" in refused(sp.attention, *tensors())


def test_a_schedule_value_with_a_fault_is_refused_before_anything_runs():
    good = make_schedule("ring", Shape(1, 4, 2))
    broken = ringattn.Schedule("mine", 1, 2, good.heads, good.steps[:0])
    sp = SequenceParallel(schedule=broken)
    assert "schedule 'mine': nobody computes the block of query chunk 0 with key chunk 0" in refused(
        sp.attention, *tensors()
    )


def test_a_kernel_that_cannot_serve():
    sp = SequenceParallel(kernel="cuda_flash")
    assert "kernel 'cuda_flash' runs on a CUDA device, and the tensors are on cpu; these serve: cpu_flash" in refused(
        sp.attention, *tensors()
    )


def test_the_choice_of_kernel_is_visible():
    assert ("cpu_flash", "chosen") in SP.kernels(torch.float32, 64)
    assert ("tiled", "chosen") in SP.kernels(torch.float32, 64, softcap=30.0)


def test_the_layout_of_a_mask():
    sp = SequenceParallel(layout="balanced")
    mask = Mask(documents=(0, 3, 8))
    assert sp.layout(8, mask) == make_layout("balanced", 8, 1, mask)
    assert np.array_equal(sp.positions(8, mask=mask).numpy(), np.arange(8))


def test_auto_is_what_the_search_finds_for_the_cluster():
    cluster = switch(2, bandwidth=1e6)
    world = ringattn.VirtualWorld(2, "auto", cluster=cluster)
    query = torch.randn(1, 64, 8, 64)
    world.attention(query, query, query)
    best = search(cluster, call(2, 64, causal=True))[0]
    chosen = ("64 tokens, causal", best.forward[0].schedule, best.backward[0].schedule)
    assert [rank.chosen() for rank in world.ranks] == [[chosen], [chosen]]


def test_auto_needs_a_cluster_of_as_many_ranks():
    world = ringattn.VirtualWorld(4, "auto", cluster=switch(2))
    query = torch.randn(1, 64, 8, 64)
    with pytest.raises(ValueError, match="has 2 ranks, got 4"):
        world.attention(query, query, query)


@pytest.mark.parametrize("options", [{}, {"softcap": 5.0}, {"landmark_block": 4}])
def test_autocast_rounds_no_partial_result(options):
    query, key, value = (torch.randn(1, 23, 2, 8, dtype=torch.bfloat16) for _ in range(3))
    sp = ringattn.SequenceParallel()
    expected = sp.attention(query, key, value, **options)
    with torch.autocast("cpu", torch.bfloat16):
        found = sp.attention(query, key, value, **options)
    assert torch.equal(found, expected)
