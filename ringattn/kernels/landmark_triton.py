"""Landmark attention on a GPU, in Triton: the formulas of `ringattn.kernels.landmark_naive`, one block of keys a tile.

Scores stay on the chip: the forward keeps a running maximum (Milakov and Gimelshein, arXiv 1805.02867) over the own
block's tokens and past landmarks, and a past block's inner softmax is whole in its tile. The backward makes scores
anew, as FlashAttention-2's (arXiv 2307.08691, section 3.1.2), with one program for the gradient of the query and one
for those of key and value.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ringattn.kernels.bands import Band
from ringattn.kernels.kernel import Kernel, Request
from ringattn.kernels.landmark_bands import LandmarkBand

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_ROWS = 64
_LARGEST_BLOCK = 127
_LARGEST_HEAD = 128


class LandmarkTriton(Kernel):
    """Blocks of up to 127 tokens, which with their landmark are a tile; head sizes up to 128; not fp64."""

    name = "landmark_triton"

    def refusal(self, request: Request) -> str | None:
        if request.device.type != "cuda":
            return f"runs on a CUDA device, and the tensors are on {request.device.type}"
        if find_spec("triton") is None:
            return "the package triton is not installed"
        if request.dtype not in _DTYPES:
            names = ", ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES)
            return f"takes {names}, and the tensors are {str(request.dtype).removeprefix('torch.')}"
        if request.head_dim > _LARGEST_HEAD:
            return f"takes head sizes up to {_LARGEST_HEAD}, got {request.head_dim}"
        if request.landmark_block is not None and request.landmark_block > _LARGEST_BLOCK:
            return f"takes landmark blocks of up to {_LARGEST_BLOCK} tokens, got {request.landmark_block}"
        return None

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, band: Band, *, scale: float, softcap: float | None
    ) -> tuple[Tensor, Tensor]:
        assert isinstance(band, LandmarkBand)
        batch, heads, rows, _ = query.shape
        out = query.new_empty(query.shape, dtype=torch.float32)
        lse = query.new_empty(query.shape[:3], dtype=torch.float32)
        past, own = _places(band, query.device)[:2]
        _programs().forward_program[(-(-rows // _ROWS), batch * heads)](
            query, key, value, out, lse, past, own, scale, rows, key.shape[2], heads, heads // key.shape[1],
            *_strides(query, key, value), **_sizes(query, band),
        )  # fmt: skip
        return out, lse

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
        assert isinstance(band, LandmarkBand)
        batch, heads, rows, _ = query.shape
        key_heads, keys = key.shape[1:3]
        grads = [x.new_empty(x.shape, dtype=torch.float32) for x in (query, key, value)]
        past, own, reader, own_row = _places(band, query.device)
        inputs = (grad_out, query, key, value, lse.float().contiguous(), extra.float().contiguous())
        strides, sizes = _strides(grad_out, query, key, value), _sizes(query, band)
        _programs().query_program[(-(-rows // _ROWS), batch * heads)](
            *inputs, grads[0], past, own, scale, rows, keys, heads, heads // key_heads, *strides, **sizes
        )
        _programs().key_program[(len(reader), batch * key_heads)](
            *inputs, grads[1], grads[2], past, reader, own_row, scale, rows, keys, key_heads, heads // key_heads,
            *strides, **sizes,
        )  # fmt: skip
        return grads[0], grads[1], grads[2]


@lru_cache(maxsize=1)
def _programs() -> Any:
    return import_module("ringattn.kernels.landmark_programs")


@lru_cache(maxsize=256)
def _places(band: LandmarkBand, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """int32: `past` and `own` of each row block; of each key block the first row that reads it through its landmark
    (all rows where none does), and the first row of the same block, or -1."""
    blocks = -(-band.keys // band.stride)
    reader = np.minimum(np.searchsorted(band.past, np.arange(blocks), side="right") * band.stride, band.rows)
    own_row = np.full(blocks, -1)
    here = np.flatnonzero(band.own >= 0)
    own_row[band.own[here]] = here * band.stride
    found = [torch.from_numpy(x.astype(np.int32)).to(device) for x in (band.past, band.own, reader, own_row)]
    return found[0], found[1], found[2], found[3]


def _strides(*tensors: Tensor) -> list[int]:
    return [stride for x in tensors for stride in x.stride()[:3]]


def _sizes(query: Tensor, band: LandmarkBand) -> dict[str, Any]:
    keys, width = max(16, _power_of_two(band.stride)), max(16, _power_of_two(query.shape[3]))
    return {
        "D": query.shape[3],
        "BLOCK": band.block,
        "ROWS": _ROWS,
        "KEYS": keys,
        "BLOCK_D": width,
        # On a CPU these programs run in triton's interpreter alone.
        "UPCAST": query.device.type == "cpu",
        # A second tile of keys and values under way is worth it where both fit beside the first.
        "num_stages": 2 if keys * width * query.element_size() <= 16 * 1024 else 1,
    }


def _power_of_two(x: int) -> int:
    return 1 << (x - 1).bit_length()
