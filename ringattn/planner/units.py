"""Numbers with units as the field writes them: `450 GB/s`, `400 Gb/s` (bits), `989 TFLOP/s`, `80 GiB`, `2 us`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ringattn.sequence.suggest import suggest

_WRITTEN = re.compile(r"(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(?P<unit>[^\s\d].*)?")
_DECIMAL = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}


@dataclass(frozen=True)
class Quantity:
    """A kind of number: what it is in words, an example, and what one of each unit is worth.

    written: the units that `write` chooses from, ascending.
    """

    name: str
    example: str
    units: dict[str, float]
    written: tuple[str, ...]

    def read(self, value: object, place: str) -> float:
        """The number that `value` stands for; a bare number is in the unit of value 1. place: for messages.

        Raises:
            ValueError: no number, an unknown unit, not finite.
        """
        if isinstance(value, int | float) and not isinstance(value, bool):
            return self._finite(float(value), value, place)
        match = _WRITTEN.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise ValueError(f"{place} must be {self.name}, got {value!r}: write for example {self.example}")
        unit = match["unit"]
        if unit is not None and unit not in self.units:
            raise ValueError(
                f"{place} must be {self.name}, got {value!r}: there is no unit {unit!r} for that"
                f"{suggest(unit, self.units)}; write for example {self.example}"
            )
        return self._finite(float(match["number"]) * (self.units[unit] if unit else 1.0), value, place)

    def _finite(self, number: float, value: object, place: str) -> float:
        if not math.isfinite(number):
            raise ValueError(f"{place} must be a finite number, got {value!r}: write for example {self.example}")
        return number

    def write(self, number: float, *, digits: int = 15) -> str:
        """The number with the unit that leaves the fewest digits before the point, but at least one."""
        unit = next((unit for unit in reversed(self.written) if number >= self.units[unit]), self.written[0])
        return f"{number / self.units[unit]:.{digits}g} {unit}"


_BYTES = {f"{prefix}B": value for prefix, value in (_DECIMAL | _BINARY).items()}
_BITS = {f"{prefix}{bit}": value / 8 for prefix, value in _DECIMAL.items() for bit in ("b", "bit")}
_FLOPS = {f"{prefix}{word}": value for prefix, value in _DECIMAL.items() for word in ("FLOP/s", "FLOPS", "FLOPs")}

SIZE = Quantity("bytes", "80 GB", _BYTES, ("B", "kB", "MB", "GB", "TB"))
BANDWIDTH = Quantity(
    "bytes/s",
    "450 GB/s, or 400 Gb/s in bits",
    {f"{unit}/s": value for unit, value in (_BYTES | _BITS).items()},
    ("B/s", "kB/s", "MB/s", "GB/s", "TB/s"),
)
FLOPS = Quantity("FLOP/s", "989 TFLOP/s", _FLOPS, ("FLOP/s", "kFLOP/s", "MFLOP/s", "GFLOP/s", "TFLOP/s", "PFLOP/s"))
TIME = Quantity("seconds", "2 us", {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}, ("ns", "us", "ms", "s"))
FRACTION = Quantity("a fraction of 1", "0.9", {"%": 0.01}, ())
