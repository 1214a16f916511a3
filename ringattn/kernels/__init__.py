"""Kernels by name, and the choice of one for a call."""

from __future__ import annotations

from ringattn.kernels.cpu_flash import CpuFlash
from ringattn.kernels.cuda import CudaCudnn, CudaEfficient, CudaFlash
from ringattn.kernels.flash_attn import FlashAttn
from ringattn.kernels.kernel import Kernel, Request
from ringattn.kernels.landmark_naive import LandmarkNaive
from ringattn.kernels.landmark_tiled import LandmarkTiled
from ringattn.kernels.landmark_triton import LandmarkTriton
from ringattn.kernels.naive import Naive
from ringattn.kernels.tiled import Tiled
from ringattn.sequence.suggest import suggest

# In the order of preference.
KERNELS: tuple[Kernel, ...] = (
    FlashAttn(),
    CudaFlash(),
    CudaEfficient(),
    CudaCudnn(),
    CpuFlash(),
    Tiled(),
    Naive(),
)

# Landmark attention's: of the same interface, over bands of their own (`ringattn.kernels.landmark_bands`).
LANDMARK_KERNELS: tuple[Kernel, ...] = (LandmarkTriton(), LandmarkTiled(), LandmarkNaive())


def choose_kernel(name: str, request: Request) -> Kernel:
    """The kernel called `name`, or for `auto` the first that serves `request`.

    ValueError where the name is unknown, or that kernel can't serve the request; the text says why.
    """
    check_kernel_name(name)
    kernels = _kernels(request)
    if name == "auto":
        return next(kernel for kernel in kernels if kernel.refusal(request) is None)
    kernel = next(k for k in (*KERNELS, *LANDMARK_KERNELS) if k.name == name)
    if kernel in kernels:
        refusal = kernel.refusal(request)
    else:
        refusal = "computes landmark attention alone" if kernel in LANDMARK_KERNELS else "has no landmarks"
    if refusal:
        serving = [k.name for k in kernels if k.refusal(request) is None]
        raise ValueError(f"kernel {name!r} {refusal}; these serve: {', '.join(serving)}")
    return kernel


def check_kernel_name(name: str) -> None:
    """Raise ValueError where `name` is neither `auto` nor a kernel's."""
    names = ["auto", *(kernel.name for kernel in (*KERNELS, *LANDMARK_KERNELS))]
    if name not in names:
        raise ValueError(f"unknown kernel {name!r}{suggest(name, names)}; there are {', '.join(names)}")


def explain_kernels(request: Request) -> list[tuple[str, str]]:
    """Each kernel with why it can't serve `request`, or `chosen` or `serves`; in the order of preference."""
    chosen = choose_kernel("auto", request).name
    return [(k.name, k.refusal(request) or ("chosen" if k.name == chosen else "serves")) for k in _kernels(request)]


def _kernels(request: Request) -> tuple[Kernel, ...]:
    return KERNELS if request.landmark_block is None else LANDMARK_KERNELS
