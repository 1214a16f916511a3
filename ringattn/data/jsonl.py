"""JSON Lines: one object a line, its text under a key. Plain, .gz or .zst."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from ringattn.data.compressed import BROKEN, lines
from ringattn.data.records import BadRecords, Piece, text_of
from ringattn.data.text import pieces

MARK = "\ufeff".encode()  # Some editors begin a UTF-8 file with it.


def read_files(files: Iterable[Path], bad: BadRecords, *, key: str) -> Iterator[Piece]:
    """The records of each file in order; empty lines are passed over, bad ones named by their number."""
    for path in files:
        number = 0
        try:
            for number, line in enumerate(lines(path), 1):
                text = _text(line, key, f"{path} line {number}", bad)
                if text is not None:
                    yield from pieces([text])
        except BROKEN as error:
            bad.add(str(path), f"is cut off or damaged after line {number} ({error})", "copy it anew")


def _text(line: bytes, key: str, place: str, bad: BadRecords) -> str | None:
    line = line.removeprefix(MARK).strip()
    if not line:
        return None
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        bad.add(place, f"must be UTF-8 text, and its byte {error.start} is not", "convert the file")
    except json.JSONDecodeError as error:
        bad.add(
            place,
            f"is not a whole JSON object ({error.msg.removesuffix(' at')} at column {error.colno})",
            "write one object a line",
        )
    except RecursionError:
        bad.add(place, "is nested too deeply", "put it right")
    else:
        return text_of(record, key, place=place, bad=bad)
    return None
