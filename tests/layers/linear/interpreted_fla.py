"""Run with TRITON_INTERPRET=1: flash-linear-attention's kernels, as they are connected, against the recurrence in fp64,
on a CPU. Prints the relative error of out, the last state and each gradient, and fails past the rounding of fp16, which
is what they compute in here (the interpreter is wrong in bf16)."""

import sys
import time
from typing import Any

import numpy as np
import torch
from test_chunked import VARIANTS
from test_fla import after
from torch import Tensor
from triton import language
from triton.runtime import Autotuner, KernelInterface
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from ringattn.layers.linear.channels import channels
from ringattn.layers.linear.fla import fla_attention, fla_channels, function, make_segments
from ringattn.layers.linear.kernels import Family
from ringattn.layers.linear.pieces import make_pieces, starts_in
from ringattn.layers.linear.recurrence import recurrence


def count(*bounds: Any) -> Any:
    """`range`, whose numbers are tensors where its bounds are, as they are in a compiled kernel."""
    plain = range(*(int(bound) for bound in bounds))
    if not any(isinstance(bound, language.tensor) for bound in bounds):
        return plain
    return (language.tensor(TensorHandle(np.array([i], dtype=np.int32), language.int32), language.int32) for i in plain)


def prepare() -> None:
    """The interpreter has no device to try configurations on, knows numbers of loops as Python's, and spreads what a
    comparison of two numbers gives as one of them."""
    spread = InterpreterBuilder.create_splat

    def create_splat(self: Any, kind: Any, x: TensorHandle) -> TensorHandle:
        return spread(self, kind, TensorHandle(x.data, language.int1) if x.data.dtype == np.bool_ else x)

    InterpreterBuilder.create_splat = create_splat
    for family in Family:
        function(family)
    for module in [module for name, module in sys.modules.items() if name.startswith("fla.ops.")]:
        vars(module)["range"] = count
        for kernel in list(vars(module).values()):
            while isinstance(kernel, KernelInterface) and hasattr(kernel, "fn"):
                if isinstance(kernel, Autotuner):
                    kernel.configs = kernel.configs[:1]
                kernel = kernel.fn


CPU, SCALE = torch.device("cpu"), 0.3
B, H, DK, DV = 2, 1, 16, 32
# Longer than a piece of the kernels: of 64 tokens, HGRN's of 128.
LENGTH, HGRN_LENGTH = 75, 140
CASES = ("whole", "packed", "spread")
# Of sums of products in which each factor was rounded to fp16; HGRN's are fp32.
TOLERANCE, HGRN_TOLERANCE = 2e-3, 1e-6


def main() -> None:
    prepare()
    for name in CASES:
        for decay, delta in VARIANTS:
            show(f"{name} {decay}{' delta' if delta else ''}", *attention(name, decay, delta))
        show(f"{name} hgrn", *hgrn(name), HGRN_TOLERANCE)
    print("interpreted")


def cut(name: str, length: int) -> tuple[tuple[range, ...], tuple[int, ...] | None]:
    """Runs and documents; spread as over ranks, one run is without tokens, and the last begins a document."""
    whole = (range(length),)
    runs = (range(66), range(66, 66), range(66, 70), range(70, length))
    return {
        "whole": (whole, None),
        "packed": (whole, (0, 2, 70, length)),
        "spread": (runs, (0, 70, length)),
    }[name]


def attention(name: str, decay: str, delta: bool) -> tuple[list[Tensor], list[Tensor]]:
    runs, documents = cut(name, LENGTH)
    torch.manual_seed(0)
    key = torch.randn(B, LENGTH, H, DK)
    given: dict[str, Tensor | None] = {
        "query": torch.randn(B, LENGTH, H, DK),
        "key": torch.nn.functional.normalize(key, dim=-1) if delta else key,
        "value": torch.randn(B, LENGTH, H, DV),
    }
    given = {one: x.half() for one, x in given.items()}
    given["log_decay"] = {
        "none": None,
        "scalar": -0.1 * torch.rand(B, LENGTH, H),
        "channel": -0.1 * torch.rand(B, LENGTH, H, DK),
    }[decay]
    given["beta"] = torch.rand(B, LENGTH, H) if delta else None
    given["initial_state"] = torch.randn(B, H, DK, DV)
    segments = make_segments(runs, documents, B, CPU)
    starts = set(starts_in(documents, [range(LENGTH)]).tolist())

    def fast(query: Any, key: Any, value: Any, initial_state: Any, **rest: Any) -> tuple[Tensor, Tensor]:
        first = {"entering": after(initial_state)} if len(runs) > 1 else {"initial_state": initial_state}
        return fla_attention(query, key, value, segments, scale=SCALE, **first, **rest)

    def slow(**rest: Any) -> tuple[Tensor, Tensor]:
        return recurrence(**rest, scale=SCALE, starts=starts)

    return results(fast, given), results(slow, wide(given))


def hgrn(name: str) -> tuple[list[Tensor], list[Tensor]]:
    runs, documents = cut(name, HGRN_LENGTH)
    torch.manual_seed(0)
    given = {"x": torch.randn(B, HGRN_LENGTH, 6), "log_decay": -torch.rand(B, HGRN_LENGTH, 6)}
    given["initial_state"] = torch.randn(B, 6)
    segments, pieces = make_segments(runs, documents, B, CPU), make_pieces((range(HGRN_LENGTH),), documents, CPU)

    def fast(x: Tensor, log_decay: Tensor, initial_state: Tensor) -> tuple[Tensor, Tensor]:
        if len(runs) > 1:
            return fla_channels(x, log_decay, segments, entering=after(initial_state[..., None, None]))
        return fla_channels(x, log_decay, segments, initial_state=initial_state)

    def slow(x: Tensor, log_decay: Tensor, initial_state: Tensor) -> tuple[Tensor, Tensor]:
        return channels(x, log_decay, pieces, initial_state=initial_state)

    return results(fast, given), results(slow, wide(given))


def wide(given: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    return {name: None if x is None else x.double() for name, x in given.items()}


def results(function: Any, given: dict[str, Tensor | None]) -> list[Tensor]:
    """out, the last state, and the gradient of each input; both depend on both."""
    given = {name: x if x is None else x.clone().requires_grad_() for name, x in given.items()}
    out, state = function(**given)
    torch.manual_seed(1)
    weights = [torch.randn(x.shape, dtype=torch.float64).half().to(x.dtype) for x in (out, state)]
    ((out * weights[0]).double().sum() + (state * weights[1]).double().sum()).backward()
    return [out.detach(), state.detach(), *(x.grad for x in given.values() if x is not None)]


def show(label: str, found: list[Tensor], exact: list[Tensor], tolerance: float = TOLERANCE) -> None:
    errors = [float((one.double() - other).norm() / other.norm()) for one, other in zip(found, exact, strict=True)]
    print(f"{time.process_time():6.1f} s", label, *(f"{error:.1e}" for error in errors), flush=True)
    assert max(errors) <= tolerance, "above the tolerance"


if __name__ == "__main__":
    main()
