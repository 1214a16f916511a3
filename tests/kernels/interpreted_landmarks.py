"""Run with TRITON_INTERPRET=1: landmark attention's Triton programs against the reference, on a CPU. Prints the largest
error of out, lse and the three gradients for each case, and fails past a dtype's tolerance."""

import itertools

import numpy as np
import torch

from ringattn import Mask
from ringattn.kernels.landmark_bands import find_landmark_bands
from ringattn.kernels.landmark_naive import LandmarkNaive
from ringattn.kernels.landmark_triton import LandmarkTriton

# Positions of rows and keys, for blocks of 8 tokens with a landmark and 83 tokens in all.
TASKS = {
    "all": (range(83), range(83)),
    "past": (range(45, 83), range(45)),
    "interleaved": ([*range(9, 18), *range(36, 45), *range(81, 83)], [*range(9), *range(36, 54), *range(81, 83)]),
}
TOLERANCE = {torch.float32: 2e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def check(task: str, heads: tuple[int, int], dim: int, dtype: torch.dtype) -> float:
    torch.manual_seed(0)
    rows, keys = (np.asarray(x) for x in TASKS[task])
    (band,) = find_landmark_bands(rows, keys, Mask(landmark_block=8), 83)
    # Rows first in memory, as the executor hands them over.
    query, grad = (torch.randn(len(rows), 1, heads[0], dim, dtype=dtype).permute(1, 2, 0, 3) for _ in range(2))
    key, value = (torch.randn(len(keys), 1, heads[1], dim, dtype=dtype).permute(1, 2, 0, 3) for _ in range(2))
    i, j = slice(band.row, band.row + band.rows), slice(band.key, band.key + band.keys)
    parts = query[:, :, i], key[:, :, j], value[:, :, j]
    lse = LandmarkNaive().forward(*parts, band, scale=0.3, softcap=None)[1]
    # Rows see more than these keys, so that their lse is larger.
    whole = (lse + torch.rand_like(lse), torch.rand_like(lse))
    results = [
        (
            *kernel.forward(*parts, band, scale=0.3, softcap=None),
            *kernel.backward(grad[:, :, i], *parts, *whole, band, scale=0.3, softcap=None),
        )
        for kernel in (LandmarkTriton(), LandmarkNaive())
    ]
    errors = [float((a - b).abs().max() / b.abs().max().clamp(min=1)) for a, b in zip(*results, strict=True)]
    print(task, heads, dim, dtype, *(f"{error:.1e}" for error in errors))
    assert max(errors) <= TOLERANCE[dtype], "above the tolerance"
    return max(errors)


if __name__ == "__main__":
    for task, heads in itertools.product(TASKS, [(2, 2), (2, 1)]):
        check(task, heads, 16, torch.float32)
    for dtype in TOLERANCE:
        check("interleaved", (2, 1), 20, dtype)
    print("interpreted")
