"""How the ranks share sequences: the mesh and the schedule of attention."""

from __future__ import annotations

from dataclasses import dataclass

from ringattn.planner.choose import AUTO
from ringattn.schedule import parse
from ringattn.sequence.layout import make_layout
from ringattn.sequence.suggest import suggest
from ringattn.settings.rules import positive

# Those of `ringattn.kernels`, which needs torch; the last three are of landmark attention.
KERNEL_NAMES = (
    "auto",
    "flash_attn",
    "cuda_flash",
    "cuda_efficient",
    "cuda_cudnn",
    "cpu_flash",
    "tiled",
    "naive",
    "landmark_triton",
    "landmark_tiled",
    "landmark_naive",
)


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How attention is cut and what travels; `timeout` in seconds.

    `name` and `backward` (null: the same) may be `auto`, the planner's choice for `cluster` (a name or a file; null:
    one of such devices as the ranks have).
    """

    name: str = "tokenring"
    backward: str | None = None
    cluster: str | None = None
    layout: str = "zigzag"
    kernel: str = "auto"
    timeout: float = 600.0


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """`sequence_parallel` ranks share a sequence (null: all); the other axis reads other sequences."""

    sequence_parallel: int | None = None


def check_parallel(schedule: ScheduleConfig, mesh: MeshConfig) -> None:
    """The rules that one field's type cannot state; ValueError where one is broken."""
    check_schedule(schedule)
    positive({"mesh.sequence_parallel": mesh.sequence_parallel})


def check_schedule(schedule: ScheduleConfig) -> None:
    """ValueError where a schedule, the layout or the kernel is none, or the timeout not above 0."""
    for name in (schedule.name, schedule.backward):
        if name not in (None, AUTO):
            parse(str(name))
    make_layout(schedule.layout, 0, 1)
    check_kernel(schedule.kernel)
    positive({"schedule.timeout": schedule.timeout})


def check_kernel(name: str) -> None:
    """ValueError where there is no kernel of attention of that name; whether it serves shows with the tensors."""
    if name not in KERNEL_NAMES:
        known = ", ".join(KERNEL_NAMES)
        raise ValueError(f"unknown kernel {name!r}{suggest(name, KERNEL_NAMES)}; there are {known}")


def mesh_shape(world: int, sequence_parallel: int | None) -> tuple[int, int]:
    """(data parallel, sequence parallel) degrees for `world` ranks.

    Raises:
        ValueError: the world is no multiple of the sequence-parallel degree.
    """
    degree = world if sequence_parallel is None else sequence_parallel
    if world % degree:
        fitting = [d for d in range(1, world + 1) if world % d == 0]
        raise ValueError(
            f"the number of ranks must be a multiple of mesh.sequence_parallel, got {world} ranks and a "
            f"degree of {degree}: choose a degree from {fitting}, or change launcher.processes."
        )
    return world // degree, degree
