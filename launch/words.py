"""`key=value` words into a typed, frozen dataclass, and its fields into help: for commands without a run of their own.

Each field's metadata says what it means (`setting`). A wrong key suggests the right one.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import yaml

from ringattn.settings.typed import build, keys, suggest
from ringattn.settings.typed import setting as setting

T = TypeVar("T")


def read(cls: type[T], words: Sequence[str], *, command: str) -> T:
    """The settings that `key=value` words make.

    Raises:
        ValueError: an unknown key or a value of the wrong type, with a suggestion.
    """
    return build(cls, mapping(cls, words, command=command))


def mapping(
    cls: type, words: Sequence[str], *, command: str, short_forms: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The words as a nested mapping that `build` takes. short_forms: other names for dotted settings.

    Raises:
        ValueError: a word that is not key=value, or an unknown key, with a suggestion.
    """
    short_forms = short_forms or {}
    known = [*keys(cls), *short_forms]
    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise ValueError(
                f"a setting is written key=value, got {word!r}.{suggest(name, known)} See `{command} --help`."
            )
        if name not in known:
            raise ValueError(f"there is no setting {name}.{suggest(name, known)} See `{command} --help`.")
        *groups, last = short_forms.get(name, name).split(".")
        place = found
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value_of(text)
    return found


def value_of(text: str) -> Any:
    """As YAML reads it; lists with or without brackets, and what is no YAML, stay text."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, list):
        return ",".join(map(str, value))
    # YAML takes 3:1 for minutes and seconds.
    return text if isinstance(value, dict) or (":" in text and isinstance(value, int | float)) else value


def rows(cls: type) -> list[tuple[str, str, str]]:
    """(name, default, meaning) of each field that says what it means; those of its own before inherited ones."""
    own = inspect.get_annotations(cls)
    return [
        (item.name, yaml.safe_dump(item.default).split("\n")[0], item.metadata["meaning"])
        for item in sorted(dataclasses.fields(cls), key=lambda item: item.name not in own)
        if "meaning" in item.metadata
    ]


def aligned(found: Sequence[tuple[str, str, str]]) -> str:
    """Rows as the text of a help."""
    wide = [max(len(row[column]) for row in found) for column in (0, 1)]
    return "\n".join(f"  {name.ljust(wide[0])}  {value.ljust(wide[1])}  {meaning}" for name, value, meaning in found)


def join(place: dict[str, Any], world: int | None, *, name: str) -> None:
    """Where a launcher has started `world` ranks, these are the `processes` in `place`; nothing where it has not.

    Raises:
        ValueError: another number was written, under the short `name`.
    """
    if world is None:
        return
    given = place.setdefault("processes", world)
    if given != world:
        raise ValueError(f"{name}={given} is for starting them here, but {world} are started already: leave it out.")
