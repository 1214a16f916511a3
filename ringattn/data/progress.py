"""Progress of long work before training: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

import tqdm

SECONDS = 10.0  # Between plain lines.


class Progress:
    """`total` units of work, None where that is not known; with rate and time left.

    >>> with Progress("tokenize", total=100, unit="characters") as progress:
    ...     progress.add(100)
    """

    def __init__(
        self, name: str, *, total: int | None, unit: str, stream: TextIO | None = None, seconds: float = SECONDS
    ) -> None:
        self.name, self.total, self.unit, self.seconds = name, total, unit, seconds
        self.stream = stream or sys.stderr
        self.done = 0
        self._started = self._shown = time.monotonic()
        self._bar = (
            tqdm.tqdm(desc=name, total=total, unit=f" {unit}", unit_scale=True, dynamic_ncols=True, file=self.stream)
            if self.stream.isatty()
            else None
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._started

    def add(self, number: int) -> None:
        """So much more is done."""
        self.done += number
        if self._bar is not None:
            self._bar.update(number)
        elif time.monotonic() - self._shown >= self.seconds:
            self._shown = time.monotonic()
            print(self._line(), file=self.stream, flush=True)

    def _line(self) -> str:
        rate = self.done / self.elapsed
        line = f"{self.name}  {shortened(self.done)} {self.unit}  {shortened(rate)}/s"
        if self.total:
            left = tqdm.tqdm.format_interval((self.total - self.done) / rate) if rate else "?"
            line += f"  {self.done / self.total:.0%} of {shortened(self.total)}  {left} left"
        return line


def shortened(number: float) -> str:
    """`12.3 M`: about three digits."""
    for size, name in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if number >= size:
            return f"{number / (1e3 if name == ' k' else size):.3g}{name}"
    return f"{number:.0f}"
