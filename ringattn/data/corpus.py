"""Token ids and document bounds on disk: written as they come, read memory-mapped.

    tokens.bin        the ids of all documents in order, uint16 or uint32, little-endian
    documents.bin     int64, little-endian: where each document starts in it, and at last the number of all tokens
    corpus.json       their sizes and digest
    tokenizer/        what made the ids, where it is known

A plain token file of another program is described by a `corpus.json` that names it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

CORPUS_FILE = "corpus.json"
TOKENIZER = "tokenizer"
_FLUSH = 1 << 16  # Bounds held before they are written.
_READ = 1 << 22  # Tokens read at one time.


@dataclass(frozen=True, kw_only=True)
class Description:
    """What `corpus.json` says. File names are relative to its folder; `offset` is in bytes.

    digest: sha256 of the tokens, as they are stored, and of the bounds.
    largest: the largest id. end_of_text: the id after each document, None where that is not known.
    """

    tokens_file: str
    dtype: str
    offset: int
    tokens: int
    documents_file: str
    documents: int
    largest: int
    end_of_text: int | None
    digest: str
    tokenizer: str | None


class CorpusWriter:
    """Writes a corpus as its documents come: `write` some tokens, `end_document`, and `finish` at last."""

    def __init__(self, folder: Path, *, vocabulary: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.dtype = np.dtype("<u2" if vocabulary <= 1 << 16 else "<u4")
        self.tokens, self.documents, self.largest = 0, 0, 0
        self._bounds = [0]
        self._hash, self._bounds_hash = hashlib.sha256(), hashlib.sha256()
        self._tokens_file = (folder / "tokens.bin").open("wb")
        self._bounds_file = (folder / "documents.bin").open("wb")

    def __enter__(self) -> CorpusWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tokens_file.close()
        self._bounds_file.close()

    def write(self, ids: list[int] | np.ndarray) -> None:
        """Tokens of the current document."""
        if not len(ids):
            return
        given = np.asarray(ids, dtype=np.int64)
        self.largest = max(self.largest, int(given.max()))
        content = given.astype(self.dtype).tobytes()
        self._hash.update(content)
        self._tokens_file.write(content)
        self.tokens += len(given)

    def end_document(self) -> None:
        """The current document is over; one without tokens never was."""
        if self.tokens == (self._bounds[-1] if self._bounds else 0):
            return
        self._bounds.append(self.tokens)
        self.documents += 1
        if len(self._bounds) > _FLUSH:
            self._write_bounds(keep=1)

    def finish(self, *, end_of_text: int | None, tokenizer: str | None) -> Description:
        """Write what is left, and `corpus.json`. `tokenizer` is its digest."""
        self.end_document()
        self._write_bounds(keep=0)
        self._tokens_file.flush()
        self._bounds_file.flush()
        self._hash.update(self._bounds_hash.digest())
        described = Description(
            tokens_file="tokens.bin",
            dtype=str(np.dtype(self.dtype).name),
            offset=0,
            tokens=self.tokens,
            documents_file="documents.bin",
            documents=self.documents,
            largest=self.largest,
            end_of_text=end_of_text,
            digest=self._hash.hexdigest(),
            tokenizer=tokenizer,
        )
        save_description(described, self.folder)
        return described

    def _write_bounds(self, *, keep: int) -> None:
        done = len(self._bounds) - keep
        content = np.array(self._bounds[:done], dtype="<i8").tobytes()
        self._bounds_hash.update(content)
        self._bounds_file.write(content)
        del self._bounds[:done]


@dataclass(frozen=True)
class Corpus:
    """An opened corpus. tokens: uint [n], bounds: int64 [documents + 1], both memory-mapped."""

    described: Description
    tokens: np.ndarray
    bounds: np.ndarray


def save_description(described: Description, folder: Path) -> None:
    (folder / CORPUS_FILE).write_text(json.dumps(asdict(described), indent=2) + "\n", encoding="utf-8")


def open_corpus(folder: Path) -> Corpus:
    """The corpus that a folder's `corpus.json` describes.

    Raises:
        ValueError: a file is missing, cut off or not what the description says.
    """
    described = _read_description(folder)
    tokens = _map(folder / described.tokens_file, described.dtype, described.tokens, described.offset)
    bounds = _map(folder / described.documents_file, "int64", described.documents + 1, 0)
    if bounds[0] != 0 or bounds[-1] != described.tokens:
        raise ValueError(
            f"document bounds go from 0 to the number of tokens, {described.tokens}, but those of {folder} go from "
            f"{bounds[0]} to {bounds[-1]}: make the folder anew."
        )
    return Corpus(described, tokens, bounds)


def describe_plain(path: Path, folder: Path, *, dtype: str | None, documents: Path | None) -> Description:
    """Describe a `.npy` or `.bin` file of another program in `folder`, reading it once through.

    dtype: of a `.bin` file, uint16 unless given. documents: a `.npy` or int64 `.bin` file of cumulative lengths from 0
    to the number of tokens; one document unless given.

    Raises:
        ValueError: a file is cut off, has another type, or its bounds do not fit.
    """
    offset, count, kind = _plain_layout(path, dtype or "uint16")
    tokens = _map(path, kind, count, offset)
    if count == 0:
        raise ValueError(f"{path} holds no tokens: give a file with some.")
    bounds = np.array([0, count], dtype="<i8") if documents is None else _plain_bounds(documents, path, count)
    digest, largest = hashlib.sha256(), 0
    for start in range(0, count, _READ):
        part = np.ascontiguousarray(tokens[start : start + _READ])
        digest.update(part.data)
        largest = max(largest, int(part.max()))
        if part.min() < 0:
            raise ValueError(
                f"token ids are 0 or more, got {part.min()} in {path}: write the ids that the model embeds."
            )
    folder.mkdir(parents=True, exist_ok=True)
    content = bounds.tobytes()
    digest.update(hashlib.sha256(content).digest())
    (folder / "documents.bin").write_bytes(content)
    described = Description(
        tokens_file=str(path.absolute()),
        dtype=kind,
        offset=offset,
        tokens=count,
        documents_file="documents.bin",
        documents=len(bounds) - 1,
        largest=largest,
        end_of_text=None,
        digest=digest.hexdigest(),
        tokenizer=None,
    )
    save_description(described, folder)
    return described


def _read_description(folder: Path) -> Description:
    path = folder / CORPUS_FILE
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Description(**values)
    except FileNotFoundError:
        raise ValueError(f"{folder} holds no {CORPUS_FILE}: make it with `ringattn tokenize`.") from None
    except (UnicodeDecodeError, json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{path} is not what `ringattn tokenize` writes ({error}): make the folder anew.") from None


def _map(path: Path, dtype: str, count: int, offset: int) -> np.ndarray:
    kind = np.dtype(dtype).newbyteorder("<")
    wanted = offset + count * kind.itemsize
    if not path.is_file():
        raise ValueError(f"{path} is not there, and the token data need it: put it back, or make them anew.")
    held = path.stat().st_size
    if held != wanted:
        raise ValueError(
            f"{path} must have {wanted} bytes ({count} numbers of {dtype}), but has {held}: it is cut off or another "
            "file now; copy it anew."
        )
    if count == 0:
        return np.zeros(0, dtype=kind)
    return np.memmap(path, dtype=kind, mode="r", offset=offset, shape=(count,))


def _plain_layout(path: Path, dtype: str) -> tuple[int, int, str]:
    """(offset in bytes, numbers, dtype) of a plain token file."""
    if path.suffix.lower() != ".npy":
        item = np.dtype(dtype).itemsize
        size = path.stat().st_size
        if size % item:
            raise ValueError(
                f"{path} has {size} bytes, which is no whole number of {dtype} tokens: it is cut off, or has another "
                "data.dtype."
            )
        return 0, size // item, dtype
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, kind = read(file)
            offset = file.tell()
    except ValueError as error:
        raise ValueError(f"{path} is no .npy file ({error}): save it with numpy.save.") from None
    if len(shape) != 1 or kind not in (np.dtype("<u2"), np.dtype("<u4"), np.dtype("<i4"), np.dtype("<i8")):
        raise ValueError(
            f"tokens are whole numbers in one row (uint16, uint32, int32 or int64), got {kind} {list(shape)} in "
            f"{path}: save them with tokens.astype('uint32').reshape(-1)."
        )
    return offset, shape[0], kind.name


def _plain_bounds(documents: Path, path: Path, count: int) -> np.ndarray:
    if not documents.is_file():
        raise ValueError(
            f"data.documents must name a file of cumulative document lengths, got {documents}, which is not there."
        )
    if documents.suffix.lower() == ".npy":
        try:
            bounds = np.load(documents, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(f"{documents} is no .npy file ({error}): save it with numpy.save.") from None
    elif documents.stat().st_size % 8:
        raise ValueError(
            f"{documents} has {documents.stat().st_size} bytes, which is no whole number of int64: it is cut off."
        )
    else:
        bounds = np.fromfile(documents, dtype="<i8")
    whole = bounds.ndim == 1 and bounds.dtype.kind in "iu" and len(bounds) > 1
    if not whole or bounds[0] != 0 or bounds[-1] != count or (np.diff(bounds.astype(np.int64)) < 1).any():
        shown = f"{bounds[:3].tolist()} ... {bounds[-1]}" if whole else f"{bounds.dtype} {list(bounds.shape)}"
        raise ValueError(
            f"document bounds rise from 0 to the number of tokens, {count} in {path}, got {shown} in {documents}: "
            "write numpy.cumsum of the lengths, with a 0 before."
        )
    return bounds.astype("<i8")
