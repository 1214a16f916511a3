"""Each CPU kernel against attention written out, in fp64; and which kernel is chosen."""

import itertools
import math

import pytest
import torch

from ringattn.kernels import KERNELS, check_kernel_name, choose_kernel, explain_kernels
from ringattn.kernels.bands import Band
from ringattn.kernels.kernel import Request, stand_in_out, sum_dtype, visible
from ringattn.kernels.merge import merge_

CPU = torch.device("cpu")
BANDS = [
    Band(0, 7, 0, 9),
    Band(0, 8, 0, 8, None, 0),
    Band(0, 9, 0, 6, None, 0),
    Band(0, 6, 0, 9, None, 3),
    Band(0, 12, 0, 12, -3, 0),
    Band(0, 12, 0, 12, -3, 2),
    Band(0, 5, 0, 12, -2, None),
    Band(0, 1, 0, 1),
]
# More than one tile or strip.
LONG_BANDS = [Band(0, 600, 0, 600, None, 0), Band(0, 700, 0, 650, -90, 30)]
CASES = [
    *itertools.product([(2, 2), (6, 2), (3, 1)], BANDS),
    *((heads, band) for heads in [(2, 1)] for band in LONG_BANDS),
]


def written_out(query, key, value, band, scale, softcap):
    """out and lse by their definition, differentiable."""
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, dim=1), value.repeat_interleave(repeat, dim=1)
    scores = query @ key.transpose(-1, -2) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    inside = visible(band, CPU)
    if inside is not None:
        scores = scores.masked_fill(~inside, -math.inf)
    return torch.softmax(scores, dim=-1) @ value, torch.logsumexp(scores, dim=-1)


def by_kernel(kernel, query, key, value, band, scale, softcap):
    """The kernel's calls for a band, merged as the executor merges them."""
    out = torch.zeros_like(query)
    lse = torch.full(query.shape[:3], -math.inf, dtype=query.dtype)
    for call in kernel.lower(band):
        rows = slice(call.row, call.row + call.rows)
        keys = slice(call.key, call.key + call.keys)
        part = kernel.forward(query[:, :, rows], key[:, :, keys], value[:, :, keys], call, scale=scale, softcap=softcap)
        merge_(out[:, :, rows], lse[:, :, rows], *part)
    return out, lse


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize(("heads", "band"), CASES, ids=str)
@pytest.mark.parametrize("name", ["naive", "tiled", "cpu_flash"])
def test_forward_and_backward_are_exact(name, heads, band, softcap):
    kernel = next(k for k in KERNELS if k.name == name)
    if kernel.refusal(Request(CPU, torch.float64, 16, softcap)):
        with pytest.raises(ValueError, match="kernel 'cpu_flash' has no softcap; these serve: tiled, naive"):
            choose_kernel(name, Request(CPU, torch.float64, 16, softcap))
        return
    torch.manual_seed(0)
    query = torch.randn(2, heads[0], band.rows, 8, dtype=torch.float64, requires_grad=True)
    key, value = (torch.randn(2, heads[1], band.keys, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    grad = torch.randn(2, heads[0], band.rows, 8, dtype=torch.float64)
    expected, expected_lse = written_out(query, key, value, band, 0.3, softcap)
    expected_grads = torch.autograd.grad(expected, (query, key, value), grad)

    with torch.no_grad():
        out, lse = by_kernel(kernel, query, key, value, band, 0.3, softcap)
        assert (out - expected).abs().max() < 1e-12
        assert (lse - expected_lse).abs().max() < 1e-12
        # rows first, as the executor keeps them
        delta = (grad * out).sum(-1).permute(2, 0, 1)
        extra = kernel.prepare(grad.permute(2, 0, 1, 3), delta)
        grads = [torch.zeros_like(x) for x in (query, key, value)]
        for call in kernel.lower(band):
            rows, keys = slice(call.row, call.row + call.rows), slice(call.key, call.key + call.keys)
            some = kernel.backward(
                grad[:, :, rows],
                query[:, :, rows],
                key[:, :, keys],
                value[:, :, keys],
                lse[:, :, rows],
                extra[rows].permute(1, 2, 0, *range(3, extra.dim())),
                call,
                scale=0.3,
                softcap=softcap,
            )
            for total, part, where in zip(grads, some, (rows, keys, keys), strict=True):
                total[:, :, where] += part
    for mine, theirs in zip(grads, expected_grads, strict=True):
        assert (mine - theirs).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_partial_results_come_in_fp32(dtype):
    for name in ("naive", "cpu_flash"):
        kernel = next(k for k in KERNELS if k.name == name)
        q = torch.randn(1, 2, 8, 16).to(dtype)
        out, lse = kernel.forward(q, q, q, Band(0, 8, 0, 8), scale=1.0, softcap=None)
        assert out.dtype == lse.dtype == sum_dtype(dtype) == torch.float32


def test_merging_nothing_with_nothing_stays_nothing():
    out, lse = torch.zeros(2, 3), torch.full((2,), -math.inf)
    merge_(out, lse, torch.zeros(2, 3), torch.full((2,), -math.inf))
    assert out.eq(0).all() and lse.eq(-math.inf).all()


def test_merging_something_with_nothing_changes_no_bit():
    out, lse = torch.randn(4, 3), torch.randn(4)
    nothing = torch.zeros(4, 3), torch.full((4,), -math.inf)
    mine = out.clone(), lse.clone()
    merge_(*mine, *nothing)
    assert torch.equal(mine[0], out) and torch.equal(mine[1], lse)
    merge_(*nothing, out, lse)
    assert torch.equal(nothing[0], out) and torch.equal(nothing[1], lse)


def test_a_stand_in_has_the_row_sums_it_stands_for():
    torch.manual_seed(0)
    grad_out = torch.randn(5, 2, 3, 16, dtype=torch.float64)
    grad_out[0, 0, 0] = 0.0
    delta = torch.randn(5, 2, 3, dtype=torch.float64)
    delta[0, 0, 0] = 0.0
    sums = (stand_in_out(grad_out, delta) * grad_out).sum(-1)
    assert (sums - delta).abs().max() < 1e-14


def test_a_stand_in_survives_tiny_gradients():
    grad_out = torch.full((1, 1, 1, 8), 1e-30)
    delta = torch.full((1, 1, 1), 3e-30)
    assert torch.allclose((stand_in_out(grad_out, delta) * grad_out).sum(-1), delta, rtol=1e-6, atol=0.0)


def test_a_bf16_stand_in_takes_two_digits():
    torch.manual_seed(0)
    grad_out = torch.randn(64, 1, 1, 32).bfloat16()
    delta = torch.randn(64, 1, 1)
    sums = (stand_in_out(grad_out, delta).float() * grad_out.float()).sum(-1)
    # One bf16 digit would leave 2^-9 = 2e-3.
    assert ((sums - delta) / delta).abs().max() < 2e-5


def test_the_choice_is_visible():
    chosen = dict(explain_kernels(Request(CPU, torch.float32, 64)))
    assert chosen["cpu_flash"] == "chosen" and chosen["naive"] == chosen["tiled"] == "serves"
    assert chosen["cuda_flash"] == "runs on a CUDA device, and the tensors are on cpu"
    softcapped = dict(explain_kernels(Request(CPU, torch.float32, 64, 30.0)))
    assert softcapped["cpu_flash"] == "has no softcap" and softcapped["tiled"] == "chosen"


@pytest.mark.parametrize(
    ("name", "dtype", "head_dim", "text"),
    [
        ("cuda_flash", torch.float32, 64, "takes float16, bfloat16, and the tensors are float32"),
        ("cuda_cudnn", torch.bfloat16, 256, "takes head sizes that are multiples of 8 up to 128, got 256"),
        ("cuda_efficient", torch.float64, 64, "takes float32, float16, bfloat16, and the tensors are float64"),
        ("cpu_flash", torch.float32, 64, "runs on a CPU, and the tensors are on cuda"),
    ],
)
def test_refusals_on_cuda_say_why(name, dtype, head_dim, text):
    kernel = next(k for k in KERNELS if k.name == name)
    assert kernel.refusal(Request(torch.device("cuda"), dtype, head_dim)) == text


def test_an_unknown_kernel_suggests():
    with pytest.raises(ValueError, match=r"unknown kernel 'cpu_flsh' \(did you mean 'cpu_flash'\?\); there are auto"):
        check_kernel_name("cpu_flsh")
