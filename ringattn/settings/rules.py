"""Rules about single numbers, each with a message that names the setting, the value and a value that serves."""

from __future__ import annotations

from collections.abc import Mapping


def positive(values: Mapping[str, float | None]) -> None:
    """Each value, where there is one, is above 0; else ValueError."""
    for key, value in values.items():
        if value is not None and not value > 0:
            raise ValueError(f"{key} must be above 0, got {value}: write for example {key}=1.")


def not_negative(values: Mapping[str, float]) -> None:
    """Each value is 0 or more; else ValueError."""
    for key, value in values.items():
        if not value >= 0:
            raise ValueError(f"{key} must be 0 or more, got {value}: write for example {key}=0.")


def fractions(values: Mapping[str, float]) -> None:
    """Each value is from 0 to below 1; else ValueError."""
    for key, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{key} is a fraction from 0 to below 1, got {value}: write for example {key}=0.1.")
