"""What a kernel is: partial attention of some queries over some keys, forward and backward.

Tensors are views [B, H, S, D] with any strides, in the order of positions. Key heads divide query heads (grouped
attention). A forward returns the softmax over the keys it was given and its log-sum-exp; a backward gets the
log-sum-exp of the whole row, so that what it returns is that part's share of the gradients.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ringattn.kernels.bands import Band


@dataclass(frozen=True)
class Request:
    """What a call asks of a kernel, to choose one by. landmark_block: None for attention without landmarks."""

    device: torch.device
    dtype: torch.dtype
    head_dim: int
    softcap: float | None = None
    landmark_block: int | None = None


class Kernel(ABC):
    """One way to compute attention over a band. Stateless; `name` is what `kernel=` takes."""

    name: str

    @abstractmethod
    def refusal(self, request: Request) -> str | None:
        """Why this kernel can't serve `request`, or None where it can."""

    def lower(self, band: Band) -> list[Band]:
        """`band` as bands that one call of this kernel computes; itself where any band will do."""
        return [band]

    @abstractmethod
    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, band: Band, *, scale: float, softcap: float | None
    ) -> tuple[Tensor, Tensor]:
        """Attention of the band's rows over its keys.

        query: [B, Hq, rows, D]; key, value: [B, Hkv, keys, D]. Returns out [B, Hq, rows, D] and lse [B, Hq, rows],
        natural logarithm, in fp32 or wider where the kernel computes them so.
        """

    def prepare(self, grad_out: Tensor, delta: Tensor) -> Tensor:
        """What `backward` takes as `extra`, made once for rows that may serve several calls.

        grad_out: [rows, B, H, D]; delta: [rows, B, H], the row sums of grad_out x out. [rows, B, H, ...] is returned.
        """
        return delta

    @abstractmethod
    def backward(
        self,
        grad_out: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        lse: Tensor,
        extra: Tensor,
        band: Band,
        *,
        scale: float,
        softcap: float | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """This band's share of the gradients of query, key and value, shaped as they are.

        grad_out: [B, Hq, rows, D]; lse: [B, Hq, rows], of the whole rows; extra: what `prepare` made, with heads
        before rows.
        """


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """What partial results of inputs of `dtype` are summed in: fp64 for fp64, fp32 for all else."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def visible(band: Band, device: torch.device) -> Tensor | None:
    """bool [rows, keys], True inside the band; None where nothing is cut off."""
    if band.low is None and band.high is None:
        return None
    distance = torch.arange(band.keys, device=device) - torch.arange(band.rows, device=device)[:, None]
    inside = torch.ones_like(distance, dtype=torch.bool)
    if band.low is not None:
        inside &= distance >= band.low
    if band.high is not None:
        inside &= distance <= band.high
    return inside


def stand_in_out(grad_out: Tensor, delta: Tensor) -> Tensor:
    """A tensor whose row sums with grad_out are `delta`, for kernels that take `out` but need only that.

    One element a row, where grad_out is largest, so nothing overflows; in 16-bit types a second one takes what
    rounding left of the first. grad_out: [rows, B, H, D]; delta: [rows, B, H].
    """
    digits = 1 if grad_out.dtype in (torch.float32, torch.float64) else 2
    place = grad_out.abs().topk(min(digits, grad_out.shape[-1]), dim=-1).indices
    largest = grad_out.gather(-1, place)
    left = delta.unsqueeze(-1)
    out = torch.zeros_like(grad_out)
    for digit in range(place.shape[-1]):
        here = largest[..., digit : digit + 1].to(delta.dtype)
        quotient = torch.where(here == 0, torch.zeros_like(left), left / here).to(grad_out.dtype)
        out.scatter_(-1, place[..., digit : digit + 1], quotient)
        left = left - here * quotient.to(delta.dtype)
    return out
