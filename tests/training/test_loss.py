"""Chunked cross-entropy against torch's own, in fp64: the loss and every gradient."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from watching import Largest

from ringattn.training.loss import IGNORE, chunked_cross_entropy, local_loss_scale, token_losses

TOKENS, SIZE, VOCABULARY = 23, 5, 11


def inputs(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, SIZE, dtype=dtype, generator=generator, requires_grad=True)
    weight = torch.randn(VOCABULARY, SIZE, dtype=dtype, generator=generator, requires_grad=True)
    labels = torch.randint(0, VOCABULARY, (TOKENS,), generator=generator)
    labels[[0, 7, 8, 22]] = IGNORE
    return hidden, weight, labels


def reference(hidden, weight, labels, softcap):
    logits = hidden @ weight.T
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("chunk", [1, 8, 23, 100])
def test_loss_and_gradients_equal_torch_in_fp64(chunk, softcap):
    hidden, weight, labels = inputs()
    expected = reference(hidden, weight, labels, softcap).sum() * 0.3
    expected_gradients = torch.autograd.grad(expected, (hidden, weight))
    loss = chunked_cross_entropy(hidden, weight, labels, chunk=chunk, softcap=softcap) * 0.3
    gradients = torch.autograd.grad(loss, (hidden, weight))
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=1e-13)
    for gradient, wanted in zip(gradients, expected_gradients):
        torch.testing.assert_close(gradient, wanted, rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_central_differences():
    hidden, weight, labels = inputs()

    def loss():
        return chunked_cross_entropy(hidden, weight, labels, chunk=8, softcap=3.0)

    gradients = torch.autograd.grad(loss(), (hidden, weight))
    for tensor, gradient in zip((hidden, weight), gradients):
        flat, step = tensor.detach().view(-1), 1e-5
        for place in range(flat.numel()):
            value = flat[place].item()
            flat[place] = value + step
            above = loss().item()
            flat[place] = value - step
            below = loss().item()
            flat[place] = value
            assert gradient.view(-1)[place].item() == pytest.approx((above - below) / (2 * step), abs=1e-7)


def test_a_backward_hands_the_gradients_over_once():
    """They are not kept for a second one: that would hold two matrices for as long as the loss has its name."""
    hidden, weight, labels = inputs()
    loss = chunked_cross_entropy(hidden, weight, labels)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="which can run once"):
        loss.backward()


def test_a_frozen_head_and_frozen_states_get_no_gradient():
    hidden, weight, labels = inputs()
    chunked_cross_entropy(hidden, weight.detach(), labels).backward()
    assert hidden.grad is not None and weight.grad is None
    assert not chunked_cross_entropy(hidden.detach(), weight.detach(), labels).requires_grad


def test_token_losses_are_zero_where_ignored():
    hidden, weight, labels = inputs()
    losses = token_losses(hidden, weight, labels, chunk=8)
    torch.testing.assert_close(losses, reference(hidden, weight, labels, None).detach())
    assert (losses[[0, 7, 8, 22]] == 0).all()


def test_no_tokens_give_zero_and_zero_gradients():
    hidden, weight, labels = (t[:0] if t.shape[0] == TOKENS else t for t in inputs())
    loss = chunked_cross_entropy(hidden, weight, labels)
    loss.backward()
    assert loss == 0
    assert (weight.grad == 0).all()


def test_bf16_logits_become_losses_in_fp32():
    hidden, weight, labels = inputs(torch.bfloat16)
    loss = chunked_cross_entropy(hidden, weight, labels, chunk=4)
    loss.backward()
    assert loss.dtype == torch.float32
    assert hidden.grad.dtype == weight.grad.dtype == torch.bfloat16
    expected = cross_entropy((hidden @ weight.T).float(), labels, ignore_index=IGNORE, reduction="sum")
    torch.testing.assert_close(loss, expected)


def test_logits_never_exist_whole():
    """The largest tensor that the loss makes has `chunk` rows of the vocabulary, or the size of an input."""
    hidden = torch.randn(64, 4, requires_grad=True)
    weight = torch.randn(100, 4, requires_grad=True)
    with Largest() as largest:
        chunked_cross_entropy(hidden, weight, torch.zeros(64, dtype=torch.int64), chunk=8).backward()
    assert largest.elements == 8 * 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, w, y: (h[None], w, y), r"flatten batch and sequence first"),
        (lambda h, w, y: (h, w, y[:-1]), r"labels \[n\], got \[23, 5\], \[11, 5\] and \[22\]"),
        (lambda h, w, y: (h, w[:, :-1], y), "must share their size and dtype"),
        (lambda h, w, y: (h, w.float(), y), "must share their size and dtype"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        chunked_cross_entropy(*change(*inputs()))


def test_scaled_sums_average_to_the_mean_however_tokens_are_spread():
    """Two ranks, two steps, uneven valid tokens: the average of the scaled sums is the token mean."""
    losses = [[1.0, 2.0, 3.0], [4.0], [], [5.0, 6.0]]  # (rank, step) in any order
    scale = local_loss_scale(world=2, accumulation=2, valid_tokens=6)
    assert sum(sum(part) * scale for part in losses) / 4 == pytest.approx(21 / 6)
    with pytest.raises(ValueError, match="at least one label"):
        local_loss_scale(world=2, accumulation=1, valid_tokens=0)
