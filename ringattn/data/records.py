"""What a reader yields, and what happens to a record that cannot be read.

Every reader yields documents in pieces, so that one text may be larger than memory. A record that does not serve is
handed to `BadRecords`, which stops there or counts it and goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ringattn.sequence.suggest import suggest

SHOWN = 3  # Bad records that a report quotes; the rest are counted.
MOST_KEYS = 12  # Keys that a message lists.
NAME_THE_KEY = "name the text with data.text_key=KEY"


@dataclass(frozen=True)
class Piece:
    """Some text of a document, and whether the document ends with it."""

    text: str
    last: bool = True


@dataclass
class BadRecords:
    """Counts the records that did not serve.

    skip: go on after one; otherwise it is a ValueError that names the file and the line or row.
    """

    skip: bool
    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, place: str, reason: str, remedy: str) -> None:
        """Record one. `place` is the file, with the line or row: `a.jsonl line 3`.

        Raises:
            ValueError: bad records are not to be skipped.
        """
        if not self.skip:
            raise ValueError(f"{place} {reason}: {remedy}, or leave such records out with data.bad=skip.")
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(f"{place} {reason}")

    def report(self) -> str:
        """One line for the user; empty where all was well."""
        if not self.count:
            return ""
        more = f", and {self.count - len(self.first)} more" if self.count > len(self.first) else ""
        return f"left out {self.count} bad record{'s' if self.count > 1 else ''}: {'; '.join(self.first)}{more}"


def text_of(record: Any, key: str, *, place: str, bad: BadRecords) -> str | None:
    """The text of a record, or None where the record is bad."""
    if not isinstance(record, Mapping):
        bad.add(place, f"must be an object with the key {key!r}, got {_kind(record)}", "put it right")
        return None
    if key not in record:
        texts = [str(name) for name, value in record.items() if isinstance(value, str)]
        bad.add(place, f"has {keys_there(key, [str(name) for name in record], texts)}", NAME_THE_KEY)
        return None
    text = record[key]
    if not isinstance(text, str):
        bad.add(place, f"must have text under {key!r}, got {_kind(text)}", "put it right")
        return None
    if not text.strip():
        bad.add(place, f"has an empty text under {key!r}", "remove it")
        return None
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        # JSON may spell half a surrogate pair, which is no character.
        bad.add(place, f"has half a surrogate pair under {key!r}, which is no text", "put it right")
        return None
    return text


def keys_there(key: str, names: Sequence[str], texts: Sequence[str]) -> str:
    """`no key 'txt' among id, text (did you mean 'text'?)`. `texts` are the names that hold texts."""
    if not names:
        return f"no key {key!r}, nor any other"
    hint = suggest(key, names) or (f" (did you mean {texts[0]!r}?)" if len(texts) == 1 else "")
    shown = ", ".join(names[:MOST_KEYS]) + (", ..." if len(names) > MOST_KEYS else "")
    return f"no key {key!r} among {shown}{hint}"


def _kind(value: Any) -> str:
    named = {type(None): "nothing", dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return named.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)
