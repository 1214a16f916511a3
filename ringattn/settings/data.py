"""Which text a run reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ringattn.settings.rules import fractions


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The text, and the fraction at its end that is held out."""

    source: Literal["kjv", "file"]
    path: str | None = None
    held_out: float = 0.05


def check_data(data: DataConfig) -> None:
    """The rules that one field's type cannot state; ValueError where one is broken."""
    if (data.source == "file") != (data.path is not None):
        raise ValueError(
            f"data.path goes with data.source=file, got data.source={data.source} and data.path={data.path}: "
            "write data=file data.path=/path/to/text.txt, or data=kjv."
        )
    fractions({"data.held_out": data.held_out})
    if data.held_out == 0:
        raise ValueError(
            "data.held_out is the fraction of the text kept for evaluation and must be above 0, got 0.0: "
            "write data.held_out=0.05."
        )
