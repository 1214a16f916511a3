"""Sequence-parallel attention whose communication schedule is a value.

The names below are loaded on first use, so that `import ringattn` and `ringattn --help` need no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Layout": "ringattn.sequence.layout",
    "Mask": "ringattn.sequence.mask",
    "Schedule": "ringattn.schedule.value",
    "SequenceParallel": "ringattn.attention",
    "VirtualWorld": "ringattn.virtual",
    "generate": "ringattn.models.generate",
    "parallelize": "ringattn.models.parallelize",
    "schedules": "ringattn.schedule",
    "verify": "ringattn.schedule.verify",
}

__all__ = sorted([*_HOMES, "__version__"])

if TYPE_CHECKING:
    from ringattn.attention import SequenceParallel as SequenceParallel
    from ringattn.models.generate import generate as generate
    from ringattn.models.parallelize import parallelize as parallelize
    from ringattn.schedule import schedules as schedules
    from ringattn.schedule.value import Schedule as Schedule
    from ringattn.schedule.verify import verify as verify
    from ringattn.sequence.layout import Layout as Layout
    from ringattn.sequence.mask import Mask as Mask
    from ringattn.virtual import VirtualWorld as VirtualWorld


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ringattn' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
