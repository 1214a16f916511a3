"""Scores under a decay of each channel: out[i, j] = sum_d a[i, d] b[j, d] exp(G[i, d] - G[j, d]) for j <= i.

G is the running sum of log decays, which only falls, so every exponent that is wanted is at most 0; but as a product of
matrices, (a exp(G)) (b exp(-G))^T, one factor overflows where decays are strong. GLA (arXiv 2312.06635, section 4.3)
therefore cuts a chunk again, and takes its exponents relative to where a block begins; blocks on the diagonal it
computes element by element. Here the cutting goes on to the end: rows of a block's second half meet columns of its
first half relative to the last token of the first, where both exponents are at most 0; and each half is such a block
again. All of it is products of matrices, and log2(size) of them.

The backward computes the factors again instead of keeping them, and needs no product of its own for G: exp(G[i] - G[j])
stands wherever a[i] and b[j] do, so that dG = a da - b db.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def decayed_products(a: Tensor, b: Tensor, cumulative: Tensor) -> Tensor:
    """a, b, cumulative: [..., c, d] with c a power of two, `cumulative` falling along c. Returns [..., c, c], zeros
    above the diagonal."""
    out: Tensor = _DecayedProducts.apply(a, b, cumulative)
    return out


class _DecayedProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, cumulative: Tensor) -> Tensor:
        ctx.save_for_backward(a, b, cumulative)
        out = a.new_zeros((*a.shape[:-1], a.shape[-2]))
        for half, of_rows, of_columns in _decays(cumulative):
            rows, columns = _halves(a, half)[1] * of_rows, _halves(b, half)[0] * of_columns
            _blocks(out, half).copy_(rows @ columns.mT)
        out.diagonal(dim1=-2, dim2=-1).copy_((a * b).sum(-1))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, b, cumulative = ctx.saved_tensors
        of_itself = grad.diagonal(dim1=-2, dim2=-1)[..., None]
        grad_a, grad_b = of_itself * b, of_itself * a
        for half, of_rows, of_columns in _decays(cumulative):
            rows, columns = _halves(a, half)[1] * of_rows, _halves(b, half)[0] * of_columns
            of_block = _blocks(grad, half)
            _halves(grad_a, half)[1].add_((of_block @ columns) * of_rows)
            _halves(grad_b, half)[0].add_((of_block.mT @ rows) * of_columns)
        return grad_a, grad_b, a * grad_a - b * grad_b


def _decays(cumulative: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(half, decays of the rows of second halves, of the columns of first halves), from large to small."""
    half = cumulative.shape[-2] // 2
    while half:
        first, second = _halves(cumulative, half)
        middle = first[..., -1:, :]
        yield half, (second - middle).exp(), (middle - first).exp()
        half //= 2


def _halves(x: Tensor, half: int) -> tuple[Tensor, Tensor]:
    """Views of the first and second halves of blocks of 2 x half rows, [..., blocks, half, d]."""
    blocks = x.unflatten(-2, (-1, 2, half))
    return blocks[..., 0, :, :], blocks[..., 1, :, :]


def _blocks(x: Tensor, half: int) -> Tensor:
    """A view of where second halves meet their first halves in x [..., c, c]: [..., blocks, half, half]."""
    pairs = x.unflatten(-2, (-1, 2 * half)).unflatten(-1, (-1, 2 * half))
    return pairs.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)[..., half:, :half]
