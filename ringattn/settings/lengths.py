"""Numbers of tokens as people write them: `4096`, `128k`, `1M`."""

from __future__ import annotations

import re
from typing import Annotated

# A setting that counts tokens, and may be written with a unit.
Tokens = Annotated[int, "tokens"]

_LENGTH = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmM]?)")
_SCALE = {"": 1, "k": 2**10, "m": 2**20}


def length_of(text: str, *, name: str = "length") -> int:
    """`128k` as a number of tokens. name: of the setting, for messages. ValueError where it is none."""
    found = _LENGTH.fullmatch(str(text).replace("_", "").replace(",", "").strip())
    tokens = float(found[1]) * _SCALE[found[2].lower()] if found else 0.0
    if tokens < 1 or tokens != int(tokens):
        raise ValueError(f"{name} must be a number of tokens from 1 on, got {text!r}: write {name}=131072, 128k or 1M.")
    return int(tokens)


def lengths_of(text: str, *, name: str = "lengths") -> tuple[int, ...]:
    """`1k,2k,4k` as numbers of tokens, ascending, each once. ValueError where one is none."""
    words = [word for word in str(text).split(",") if word.strip()]
    if not words:
        raise ValueError(f"{name} must be numbers of tokens with commas between, got {text!r}: write {name}=4096,8k.")
    return tuple(sorted({length_of(word, name=name) for word in words}))
