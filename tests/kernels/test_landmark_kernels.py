"""Landmark attention: the reference against the paper's definition, each kernel against the reference, in fp64."""

import numpy as np
import pytest
import torch
from landmark_reference import landmark_attention as by_definition

from ringattn import Mask
from ringattn.kernels import LANDMARK_KERNELS, choose_kernel, explain_kernels
from ringattn.kernels.kernel import Request
from ringattn.kernels.landmark_bands import find_landmark_bands
from ringattn.kernels.landmark_naive import landmark_attention
from ringattn.kernels.merge import merge_

CPU = torch.device("cpu")
NAMES = ["landmark_naive", "landmark_tiled"]


def kernel_called(name):
    return next(kernel for kernel in LANDMARK_KERNELS if kernel.name == name)


def problem(length, heads, *, batch=1, dim=8, dtype=torch.float64):
    torch.manual_seed(0)
    query = torch.randn(batch, length, heads[0], dim, dtype=torch.float64)
    key, value = (torch.randn(batch, length, heads[1], dim, dtype=torch.float64) for _ in range(2))
    grad = torch.randn_like(query)
    return [x.to(dtype).requires_grad_() for x in (query, key, value)], grad.to(dtype)


@pytest.mark.parametrize(
    ("length", "block", "documents", "heads"),
    [
        (13, 3, None, (2, 2)),
        (12, 3, None, (2, 1)),
        (14, 4, (0, 5, 5, 7, 14), (4, 2)),
        (7, 1, None, (1, 1)),
        (5, 9, None, (1, 1)),
    ],
)
def test_the_reference_is_the_paper_s_definition(length, block, documents, heads):
    tensors, grad = problem(length, heads, batch=2)
    expected = by_definition(*tensors, block, documents)
    out = landmark_attention(*tensors, block=block, documents=documents)
    assert (out - expected).abs().max() < 1e-12
    wanted = torch.autograd.grad(expected, tensors, grad)
    for mine, theirs in zip(torch.autograd.grad(out, tensors, grad), wanted, strict=True):
        assert (mine - theirs).abs().max() < 1e-12


def test_one_block_alone_is_causal_attention():
    (query, key, value), _ = problem(6, (2, 2))
    plain = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (query, key, value)), is_causal=True
    )
    assert (landmark_attention(query, key, value, block=9) - plain.transpose(1, 2)).abs().max() < 1e-12


def test_values_of_landmarks_are_never_read():
    (query, key, value), _ = problem(13, (2, 2))
    changed = value.detach().clone()
    changed[:, 3::4] = 1e30
    plain = landmark_attention(query, key, value, block=3)
    assert torch.equal(landmark_attention(query, key, changed, block=3), plain)


# (row blocks' positions, key blocks' positions) of a task, where blocks are of 4 tokens and the last has 2.
TASKS = {
    "all": (range(26), range(26)),
    "past": (range(16, 26), range(16)),
    "interleaved": ([*range(4, 8), *range(12, 16), *range(24, 26)], [*range(4), *range(8, 16), *range(24, 26)]),
    "own blocks of some rows": (range(8, 26), [*range(12, 16), *range(20, 24)]),
    "the short block alone": (range(24, 26), range(24, 26)),
}


def by_kernel(kernel, tensors, grad, rows, keys, mask, length, whole):
    """out and lse of a task's rows over its keys, and with `whole` (lse, delta of the rows) the gradients' shares."""
    query, key, value = (x.detach().transpose(1, 2) for x in tensors)
    rows, keys = np.asarray(rows), np.asarray(keys)
    query, key, value = query[:, :, rows], key[:, :, keys], value[:, :, keys]
    out, lse = torch.zeros_like(query), query.new_full(query.shape[:3], -torch.inf)
    grads = [torch.zeros_like(x) for x in (query, key, value)]
    for band in find_landmark_bands(rows, keys, mask, length):
        i, j = slice(band.row, band.row + band.rows), slice(band.key, band.key + band.keys)
        parts = (query[:, :, i], key[:, :, j], value[:, :, j])
        merge_(out[:, :, i], lse[:, :, i], *kernel.forward(*parts, band, scale=0.3, softcap=None))
        if whole is not None:
            of_rows = [x[:, :, rows][:, :, i] for x in (grad.transpose(1, 2), *whole)]
            found = kernel.backward(of_rows[0], *parts, of_rows[1], of_rows[2], band, scale=0.3, softcap=None)
            for total, part, where in zip(grads, found, (i, j, j), strict=True):
                total[:, :, where] += part
    return out, lse, grads


@pytest.mark.parametrize("heads", [(2, 2), (4, 2), (3, 1)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_all_rows_over_all_keys(name, heads):
    tensors, grad = problem(26, heads, batch=2)
    kernel, mask, everything = kernel_called(name), Mask(landmark_block=3), range(26)
    expected = landmark_attention(*tensors, block=3, scale=0.3)
    out, lse, _ = by_kernel(kernel, tensors, grad, everything, everything, mask, 26, None)
    delta = (grad * expected.detach()).sum(-1).transpose(1, 2)
    grads = by_kernel(kernel, tensors, grad, everything, everything, mask, 26, (lse, delta))[2]
    wanted = torch.autograd.grad(expected, tensors, grad)
    for mine, theirs in zip((out, *grads), (expected, *wanted), strict=True):
        assert (mine.transpose(1, 2) - theirs).abs().max() < 1e-12


@pytest.mark.parametrize("documents", [None, (0, 8, 26)], ids=["one document", "two documents"])
@pytest.mark.parametrize("task", TASKS)
def test_tiles_give_what_the_formula_gives_for_any_task(task, documents):
    tensors, grad = problem(26, (4, 2))
    mask = Mask(documents=documents, landmark_block=3)
    # Any lse and delta will do: the two must agree on what they make of them.
    whole = torch.rand(2, 1, 4, 26, dtype=torch.float64).unbind()
    naive, tiled = (by_kernel(kernel_called(name), tensors, grad, *TASKS[task], mask, 26, whole) for name in NAMES)
    for mine, theirs in zip((*tiled[:2], *tiled[2]), (*naive[:2], *naive[2]), strict=True):
        assert torch.equal(mine.isinf(), theirs.isinf())
        assert (mine - theirs).nan_to_num(0.0).abs().max() < 1e-12


def test_several_tiles_of_rows_heads_and_keys(monkeypatch):
    monkeypatch.setattr("ringattn.kernels.landmark_tiled._TILE_ROWS", 16)
    monkeypatch.setattr("ringattn.kernels.landmark_tiled._TILE_SCORES", 256)
    tensors, grad = problem(200, (4, 2), batch=2)
    whole = torch.rand(2, 2, 4, 200, dtype=torch.float64).unbind()
    case = (tensors, grad, range(200), range(200), Mask(documents=(0, 90, 200), landmark_block=7), 200, whole)
    naive, tiled = (by_kernel(kernel_called(name), *case) for name in NAMES)
    for mine, theirs in zip((*tiled[:2], *tiled[2]), (*naive[:2], *naive[2]), strict=True):
        assert (mine - theirs).abs().max() < 1e-11


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_partial_results_come_in_fp32(name, dtype):
    tensors, grad = problem(26, (4, 2), dtype=dtype)
    whole = torch.rand(2, 1, 4, 26).unbind()
    (band,) = find_landmark_bands(np.arange(26), np.arange(26), Mask(landmark_block=3), 26)
    parts = [x.detach().transpose(1, 2) for x in tensors]
    found = kernel_called(name).forward(*parts, band, scale=0.3, softcap=None)
    found += kernel_called(name).backward(grad.transpose(1, 2), *parts, *whole, band, scale=0.3, softcap=None)
    assert {x.dtype for x in found} == {torch.float32}


def test_scores_of_any_size_do_not_overflow():
    tensors, grad = problem(26, (2, 2), dtype=torch.float32)
    tensors[0] = (tensors[0] * 1e4).detach().requires_grad_()
    whole = (torch.full((1, 2, 26), 1e5), torch.zeros(1, 2, 26))
    found = by_kernel(
        kernel_called("landmark_tiled"), tensors, grad, range(26), range(26), Mask(landmark_block=3), 26, whole
    )
    assert all(x.isfinite().all() for x in (*found[:2], *found[2]))


def test_rows_and_keys_that_see_nothing_of_each_other_make_no_band():
    mask = Mask(landmark_block=3)
    assert find_landmark_bands(np.arange(8), np.arange(8, 26), mask, 26) == []
    assert find_landmark_bands(np.arange(8), np.arange(8, 26), Mask(documents=(0, 8, 26), landmark_block=3), 26) == []


def test_which_blocks_a_band_s_rows_are_behind():
    rows, keys = np.asarray([*range(4, 8), *range(12, 16), *range(24, 26)]), np.asarray([*range(4), *range(12, 26)])
    (band,) = find_landmark_bands(rows, keys, Mask(landmark_block=3), 26)
    assert (band.row, band.rows, band.key, band.keys) == (0, 10, 0, 18)
    assert band.past.tolist() == [1, 1, 4] and band.own.tolist() == [-1, 1, 4]


def test_bands_of_the_same_rows_and_keys_are_not_taken_for_each_other():
    near, far = (
        find_landmark_bands(np.arange(first, 26), np.arange(first), Mask(landmark_block=block), 26)[0]
        for first, block in ((16, 3), (16, 7))
    )
    assert (near.row, near.rows, near.key, near.keys) == (far.row, far.rows, far.key, far.keys)
    assert near != far and hash(near) != hash(far)


def test_the_choice_of_kernel():
    request = Request(CPU, torch.float32, 64, landmark_block=63)
    assert choose_kernel("auto", request).name == "landmark_tiled"
    assert dict(explain_kernels(request))["landmark_naive"] == "serves"
    with pytest.raises(
        ValueError, match="kernel 'naive' has no landmarks; these serve: landmark_tiled, landmark_naive"
    ):
        choose_kernel("naive", request)
    with pytest.raises(
        ValueError, match="kernel 'landmark_tiled' computes landmark attention alone; these serve: cpu_"
    ):
        choose_kernel("landmark_tiled", Request(CPU, torch.float32, 64))
