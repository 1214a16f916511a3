"""The tokens before each chunk, and their gradients, against the whole sequence."""

import pytest
import torch
from layouts_of_runs import cut
from ranks import refusals, run_ranks

from ringattn import SequenceParallel
from ringattn.layers.linear.halo import halo, with_halo
from ringattn.sequence.layout import make_layout

BATCH, CHANNELS = 2, 3
LAYOUTS = ("contiguous", "zigzag", "balanced", "shuffled", "short", "fewer tokens than ranks")


def in_order(x, width, layout, documents):
    """The naive halos of all chunks: [chunks, B, width - 1, C]."""
    found = []
    for chunk in layout.chunks:
        rows = []
        for position in range(chunk.start - width + 1, chunk.start):
            within = position >= max((d for d in documents or (0,) if d <= chunk.start), default=0)
            rows.append(x[:, position] if within and len(chunk) else x.new_zeros(BATCH, CHANNELS))
        found.append(torch.stack(rows, dim=1) if rows else x.new_zeros(BATCH, 0, CHANNELS))
    return torch.stack(found)


def errors(rank, world, layouts, widths):
    """The largest error of the halos and of the gradient on this rank, and where other bytes were sent than rows."""
    sp = SequenceParallel(timeout=60)
    random = torch.Generator().manual_seed(0)
    worst, wrong_bytes = 0.0, []
    for name in layouts:
        layout = cut(name, world)
        mine = slice(rank * layout.chunks_per_rank, (rank + 1) * layout.chunks_per_rank)
        whole = torch.randn(BATCH, layout.length, CHANNELS, dtype=torch.float64, generator=random).requires_grad_()
        bounds = sorted({0, layout.length // 5, layout.length // 2, layout.length})
        for width in widths:
            for documents in (None, tuple(bounds)) if layout.length else (None,):
                exact = in_order(whole, width, layout, documents)
                weight = torch.randn(exact.shape, dtype=torch.float64, generator=random)
                (exact_grad,) = torch.autograd.grad((exact * weight).sum() + 0 * whole.sum(), whole)
                at = torch.from_numpy(layout.positions(rank))
                local = whole.detach()[:, at].requires_grad_()
                sp.counter.reset()
                found = halo(local, width, layout, sp, documents)
                sent, received = sp.counter.sent_bytes, sp.counter.received_bytes
                (grad,) = torch.autograd.grad((found * weight[mine]).sum(), local)
                assert found.shape == (layout.chunks_per_rank, BATCH, width - 1, CHANNELS)
                for x, expected in ((found, exact[mine]), (grad, exact_grad[:, at])):
                    worst = max(worst, (x - expected).abs().max().item() if x.numel() else 0.0)
                # Gradients go back the way the rows came; of a rank's chunks none reads more than width - 1 rows.
                back = sp.counter.sent_bytes - sent, sp.counter.received_bytes - received
                most = sum(len(c) > 0 for c in layout.of(rank)) * (width - 1) * BATCH * CHANNELS * 8
                if back != (received, sent) or received > most:
                    wrong_bytes.append((name, width, documents, sent, received, back))
    return worst, wrong_bytes


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_halos_and_their_gradients_are_exact_on_every_rank(world):
    for worst, wrong_bytes in run_ranks(world, errors, world, LAYOUTS, (1, 2, 4, 9), timeout=110, threads=True):
        assert worst < 1e-10
        assert wrong_bytes == []


def test_real_processes_too():
    assert max(worst for worst, _ in run_ranks(2, errors, 2, ("zigzag", "shuffled"), (4,))) < 1e-10


def convolved(rank, layout_name):
    """A convolution over each chunk with its halo gives what it gives over the whole sequence."""
    sp = SequenceParallel(layout=layout_name, timeout=60)
    x = torch.arange(1.0, 25.0).view(1, 24, 1)
    taps = torch.tensor([[[1.0, 10.0, 100.0]]])
    whole = torch.nn.functional.conv1d(torch.nn.functional.pad(x.mT, (2, 0)), taps).mT
    pieces = with_halo(sp.shard(x, 1), 3, sp.layout(24), sp)
    out = torch.cat([torch.nn.functional.conv1d(piece.mT, taps).mT for piece in pieces], dim=1)
    sent = sp.counter.sent_bytes // 4
    return torch.equal(out, sp.shard(whole, 1)), sent


def test_a_convolution_needs_nothing_else():
    # Two rows of one number for each border between ranks: zigzag's 0 1 1 0 has one each way.
    assert run_ranks(2, convolved, "zigzag", threads=True) == [(True, 2), (True, 2)]
    assert run_ranks(2, convolved, "contiguous", threads=True) == [(True, 2), (True, 0)]


def rounded_gradient(rank):
    """A token before eight chunks of one token: its gradient is summed in fp32, and rounded once."""
    sp = SequenceParallel(timeout=60)
    layout = make_layout("balanced", 24, sp.world)
    x = torch.ones(1, layout.local_length(rank), 1, dtype=torch.bfloat16).requires_grad_()
    out = halo(x, 9, layout, sp)
    # The next token gives 1, the seven behind it 1/512 each: 1.0137, while a sum in bfloat16 would stop at 1.
    weight = torch.full_like(out, 1 / 512)
    weight[:, :, -1] = 1
    (grad,) = torch.autograd.grad(out, x, weight)
    inner = torch.from_numpy(layout.positions(rank)) < 16
    return grad[0, inner, 0].float().unique().tolist()


def test_gradients_of_half_precision_are_rounded_once():
    assert run_ranks(2, rounded_gradient, threads=True) == [[1.015625]] * 2


def some_call(rank, what):
    sp = SequenceParallel(timeout=60)
    layout = make_layout("striped" if what == "striped" else "zigzag", 16, sp.world)
    x = torch.ones(1, 8 + (what == "tokens" and rank == 0), 3 + (what == "channels" and rank))
    documents = (0, 4 + rank, 16) if what == "documents" else None
    return halo(x, 0 if what == "width" else 4, layout, sp, documents)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("striped", "choose layout contiguous, zigzag or balanced"),
        ("width", "a convolution has a width of 1 token at least, its own, got 0"),
        ("tokens", "the shard of x on rank 0 has 9 tokens"),
        ("channels", "its input [B, C] differs (rank 0: [1, 3] float32; rank 1: [1, 4] float32)"),
        ("documents", "the documents differs"),
    ],
)
def test_what_does_not_serve_or_fit_is_refused_on_every_rank(what, said):
    for text in refusals(2, some_call, what, threads=True):
        assert said in text
