"""What a GPU must show: every kernel that serves there, every schedule and every linear attention exact, and what
cutting into ranks costs.

    python scripts/check_gpu.py                                        # on the GPU, all ranks played in one process
    python scripts/check_gpu.py --device cpu --tokens 256 --heads 8 --key-heads 2 --head-dim 32     # tries the script

Prints tables of errors against fp64, of linear attentions by the operators of torch and by flash-linear-attention where
it serves (`--only linear` for these alone), then the summed kernel time of eight virtual ranks over one call of torch's
fastest backend on the whole sequence (bf16, causal). Exits with 1 where an error is past its tolerance.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable

import torch

# The package `check_gpu` beside this file: Python prefers a package to a module of the same name.
from check_gpu.linear import linear_errors
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

import ringattn
from ringattn.kernels import KERNELS, LANDMARK_KERNELS
from ringattn.kernels.kernel import Request

MASKS = {
    "causal": {},
    "full": {"causal": False},
    "window": {"window": 100},
    "documents": {"documents": (0, 70, 71, 384)},
    "landmarks": {"documents": (0, 70, 71, 384), "landmark_block": 63},
}
# Relative to the norm; the error of one 16-bit rounding of out and of the scores' products.
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 1.2e-2, torch.float16: 2e-3}


def main() -> int:
    options = _options()
    device = torch.device(options.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, ringattn {ringattn.__version__}")
    wrong, figures = linear_errors(device), {}
    if options.only != "linear":
        wrong += _kernels(device) + _schedules(device)
        figures = _ratio(device, options)
    print(json.dumps({"device": name, "torch": torch.__version__, "wrong": wrong, **figures}))
    return 1 if wrong else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", choices=("linear",))
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=8192, help="a rank")
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--key-heads", type=int, default=8)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--schedules", default="ring,tokenring,ulysses,allgather")
    return parser.parse_args()


def _kernels(device: torch.device) -> int:
    """Each kernel that serves, under each mask, through TokenRing over four ranks."""
    wrong = 0
    print("\nkernel           dtype      mask        out      dq       dk       dv")
    for kernel, dtype, mask in itertools.product((*KERNELS, *LANDMARK_KERNELS), TOLERANCES, MASKS):
        block = MASKS[mask].get("landmark_block")
        if (block is not None) == (kernel in LANDMARK_KERNELS) and not kernel.refusal(
            Request(device, dtype, 64, landmark_block=block)
        ):
            errors = _errors("tokenring", kernel.name, dtype, mask, device)
            wrong += _show(f"{kernel.name:16} {str(dtype)[6:]:10} {mask:10}", errors, TOLERANCES[dtype])
    return wrong


def _schedules(device: torch.device) -> int:
    """Each schedule with the kernel that is chosen for it."""
    wrong = 0
    print("\nschedule         dtype      mask        out      dq       dk       dv")
    dtypes = (torch.float32, torch.bfloat16)
    for schedule, dtype, mask in itertools.product(ringattn.schedules(), dtypes, MASKS):
        if schedule != "grid":
            errors = _errors(schedule, "auto", dtype, mask, device)
            wrong += _show(f"{schedule:16} {str(dtype)[6:]:10} {mask:10}", errors, TOLERANCES[dtype])
    return wrong


def _show(label: str, errors: list[float], tolerance: float) -> int:
    bad = not all(error <= tolerance for error in errors)
    print(label, "  ".join(f"{error:.1e}" for error in errors), "   WRONG" if bad else "")
    return int(bad)


def _errors(schedule: str, kernel: str, dtype: torch.dtype, mask: str, device: torch.device) -> list[float]:
    """Relative errors of out, dq, dk, dv over four virtual ranks against the reference in fp64."""
    random = torch.Generator().manual_seed(0)
    sizes = (8, 4, 4, 8)
    query, key, value, grad = (torch.randn(1, 384, heads, 64, generator=random).to(dtype) for heads in sizes)
    naive = "landmark_naive" if "landmark_block" in MASKS[mask] else "naive"
    exact = _world(1, "ring", naive, [x.double() for x in (query, key, value)], grad.double(), mask)
    found = _world(4, schedule, kernel, [x.to(device) for x in (query, key, value)], grad.to(device), mask)
    return [((x.cpu().double() - y).norm() / y.norm()).item() for x, y in zip(found, exact, strict=True)]


def _world(
    ranks: int, schedule: str, kernel: str, tensors: list[Tensor], grad: Tensor, mask: str
) -> tuple[Tensor, ...]:
    world = ringattn.VirtualWorld(ranks, schedule, kernel=kernel)
    inputs = [x.requires_grad_() for x in tensors]
    parts = world.attention(*inputs, **MASKS[mask])
    places = [sp.positions(grad.shape[1], mask=ringattn.Mask(**MASKS[mask])).to(grad.device) for sp in world.ranks]
    grads = torch.autograd.grad(parts, inputs, [grad[:, place] for place in places])
    out = torch.empty_like(parts[0], memory_format=torch.contiguous_format).new_empty(grad.shape)
    for part, place in zip(parts, places, strict=True):
        out[:, place] = part.detach()
    return out, *grads


def _ratio(device: torch.device, options: argparse.Namespace) -> dict[str, object]:
    """Virtual ranks one after another over one call on the whole sequence, forward and forward + backward."""
    length = options.ranks * options.tokens
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    sizes = (options.heads, options.key_heads, options.key_heads)
    query, key, value = (
        torch.randn(1, length, heads, options.head_dim, device=device, dtype=dtype).requires_grad_() for heads in sizes
    )

    def whole(backward: bool) -> None:
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        out = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        if backward:
            torch.autograd.grad(out.sum(), (query, key, value))

    backends = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    best: dict[bool, tuple[float, str]] = {}
    for backend, backward in itertools.product(backends, (False, True)):
        try:
            with sdpa_kernel(backend):
                seconds = _time(lambda both=backward: whole(both), device)
        except RuntimeError as error:
            print(f"torch's {backend.name} does not serve: {str(error).splitlines()[0]}")
            continue
        best[backward] = min(best.get(backward, (float("inf"), "")), (seconds, backend.name))
    figures: dict[str, object] = {"length": length}
    print(f"\n{options.ranks} virtual ranks of {options.tokens} tokens over one call on {length}, {dtype}, causal")
    for schedule, backward in itertools.product(options.schedules.split(","), (False, True)):
        world = ringattn.VirtualWorld(options.ranks, schedule)

        def ranks(world: ringattn.VirtualWorld = world, backward: bool = backward) -> None:
            parts = world.attention(query, key, value)
            if backward:
                torch.autograd.grad(parts, (query, key, value), [torch.ones_like(part) for part in parts])

        seconds, (one, backend_name) = _time(ranks, device), best[backward]
        what = "forward + backward" if backward else "forward"
        print(f"{schedule:12} {what:20} {seconds / one:5.2f}   ({seconds:.4f} s over {one:.4f} s, {backend_name})")
        figures[f"{schedule}, {what}"] = round(seconds / one, 3)
    return figures


def _time(run: Callable[[], None], device: torch.device, *, rounds: int = 5) -> float:
    """Median seconds of a run, after one that warms up."""
    seconds = []
    for _ in range(rounds + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


if __name__ == "__main__":
    sys.exit(main())
