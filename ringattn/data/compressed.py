"""Files as blocks of bytes, unpacked on the way where they are named .gz or .zst, and as numbered lines."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = 1 << 20
COMPRESSED = (".gz", ".zst")
# What reading a compressed file that is cut off or damaged raises.
BROKEN = (EOFError, zlib.error, gzip.BadGzipFile)


def inner_suffix(path: Path) -> str:
    """The suffix of what a file holds, in lower case: `.jsonl` of `a.jsonl.gz`."""
    name = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    return name.suffix.lower()


def blocks(path: Path) -> Iterator[bytes]:
    """The content of a file, unpacked.

    Raises:
        EOFError, zlib.error, gzip.BadGzipFile (`BROKEN`): a compressed file is cut off or damaged.
    """
    if path.suffix.lower() == ".zst":
        yield from _unpacked(path)
        return
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block


def lines(path: Path) -> Iterator[bytes]:
    """The lines of a file without their ends; raises as `blocks` does."""
    held: list[bytes] = []
    for block in blocks(path):
        first, *rest = block.split(b"\n")
        held.append(first)
        for line in rest:
            yield b"".join(held)
            held = [line]
    if any(held):
        yield b"".join(held)


def _unpacked(path: Path) -> Iterator[bytes]:
    zstandard = _zstandard(path)
    unpacker = None
    with path.open("rb") as file:
        while packed := file.read(BLOCK):
            while packed:
                unpacker = unpacker or zstandard.ZstdDecompressor().decompressobj()
                try:
                    yield unpacker.decompress(packed)
                except zstandard.ZstdError as error:
                    raise EOFError(str(error)) from None
                packed = unpacker.unused_data
                if unpacker.eof:  # A file may hold several frames.
                    unpacker = None
    if unpacker is not None:
        raise EOFError("it ends in the middle of a frame")


def _zstandard(path: Path) -> Any:
    try:
        import zstandard
    except ModuleNotFoundError:
        raise ValueError(
            f"{path} needs the package zstandard, which is not installed: pip install 'ringattn[data]', or unpack the "
            "file."
        ) from None
    return zstandard
