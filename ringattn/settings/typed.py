"""Nested mappings into frozen dataclasses, with messages that state the rule, the value and the remedy.

A small reader instead of a schema library: the settings are ints, floats, booleans, strings, choices,
optional values and nested groups, and what matters is that a wrong key or value gives one sentence a person
can act on.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, Union, cast

from ringattn.sequence.suggest import nearest
from ringattn.settings.lengths import Tokens, length_of

T = TypeVar("T")

_EXPECTED = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_EXAMPLE = {int: "10", float: "0.1", bool: "true", str: "name"}


def suggest(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or the empty string where nothing is close."""
    names = sorted(known)
    close = nearest(word, names)
    if close is None and "." in word:
        # The right setting under the wrong group: compare the last part alone.
        last = {name.rsplit(".", 1)[-1]: name for name in names}
        close = last.get(nearest(word.rsplit(".", 1)[-1], sorted(last), cutoff=0.7) or "")
    return f" Did you mean {close!r}?" if close else ""


def keys(cls: type, prefix: str = "") -> list[str]:
    """Every dotted setting under a dataclass, groups left out: `['model.path', ...]`."""
    found: list[str] = []
    hints = typing.get_type_hints(cls)
    for item in dataclasses.fields(cls):
        name = f"{prefix}{item.name}"
        inner, _ = _strip_none(hints[item.name])
        found += keys(cast(type, inner), f"{name}.") if dataclasses.is_dataclass(inner) else [name]
    return found


def setting(default: Any, meaning: str) -> Any:
    """A field with a default and what it means."""
    return dataclasses.field(default=default, metadata={"meaning": meaning})


def build(cls: type[T], mapping: Mapping[str, Any], prefix: str = "") -> T:
    """Build the dataclass `cls` from `mapping`; `prefix` is the dotted place, for messages.

    Raises:
        ValueError: an unknown or missing key, or a value of the wrong type.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {item.name: item for item in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in mapping:
        if key not in fields:
            known = [f"{prefix}{name}" for name in fields]
            raise ValueError(
                f"there is no setting {prefix}{key}.{suggest(f'{prefix}{key}', known)} "
                f"The settings here are {', '.join(known)}."
            )
    values = {}
    for name, item in fields.items():
        place = f"{prefix}{name}"
        if name in mapping:
            values[name] = _convert(hints[name], mapping[name], place)
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise ValueError(f"the setting {place} is required and has no value: write {place}=...")
    return cls(**values)


def _convert(hint: Any, value: Any, place: str) -> Any:
    inner, optional = _strip_none(hint)
    if inner == Tokens:
        inner = int
        value = length_of(value, name=place) if isinstance(value, str) else value
    if value is None:
        if optional:
            return None
        raise ValueError(f"{place} must be {_expected(inner)}, got null: write {place}={_example(inner)}.")
    if dataclasses.is_dataclass(inner):
        if not isinstance(value, Mapping):
            raise ValueError(
                f"{place} is a group of settings, got {value!r}: set its parts, for example "
                f"{place}.{dataclasses.fields(inner)[0].name}=..."
            )
        return build(cast(type, inner), value, f"{place}.")
    if typing.get_origin(inner) is Literal:
        return _choice(typing.get_args(inner), value, place)
    if inner is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if inner is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if type(value) is not inner:
        raise ValueError(
            f"{place} must be {_expected(inner)}, got {value!r}: write for example {place}={_example(inner)}."
        )
    return value


def _choice(choices: tuple[Any, ...], value: Any, place: str) -> Any:
    if value is False and "off" in choices:  # YAML reads the bare word off as false.
        value = "off"
    if value not in choices:
        raise ValueError(
            f"{place} must be one of {', '.join(map(str, choices))}, got {value!r}."
            f"{suggest(str(value), map(str, choices))} Write for example {place}={choices[0]}."
        )
    return value


def _strip_none(hint: Any) -> tuple[Any, bool]:
    if typing.get_origin(hint) in (Union, types.UnionType):
        inner = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        if len(inner) != 1:
            raise TypeError(f"a setting has one type, or one type and None, got {hint}")
        return inner[0], True
    return hint, False


def _expected(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, typing.get_args(hint)))}"
    return _EXPECTED.get(hint, "a group of settings")


def _example(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return str(typing.get_args(hint)[0])
    return _EXAMPLE.get(hint, "...")
