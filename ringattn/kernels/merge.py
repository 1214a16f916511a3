"""Merge two partial attentions over disjoint keys: exact, in place, one pass over the larger tensor.

With lse = log(exp(lse_a) + exp(lse_b)), the merged out is out_a + w (out_b - out_a), w = exp(lse_b - lse)
= sigmoid(lse_b - lse_a) (the online softmax of Milakov and Gimelshein, arXiv 1805.02867, on whole blocks).
"""

from __future__ import annotations

import torch
from torch import Tensor


def merge_(out: Tensor, lse: Tensor, other_out: Tensor, other_lse: Tensor) -> None:
    """Merge (other_out, other_lse) into (out, lse). out: [..., D], lse: [...]; a row over no keys has lse -inf and
    any finite out."""
    weight = torch.sigmoid(other_lse - lse)
    # Two rows that saw nothing: -inf - -inf is NaN, and the weight of nothing is nothing.
    weight.masked_fill_(other_lse == float("-inf"), 0.0)
    out.lerp_(other_out, weight.unsqueeze(-1))
    torch.logaddexp(lse, other_lse, out=lse)
