"""Where a text comes from: which files a path means, and which kind they are.

The kind follows from what the path says: the suffix of a file, of what a glob finds, or of what a folder holds.
"""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ringattn.data import jsonl, tables, text
from ringattn.data.compressed import inner_suffix
from ringattn.data.corpus import CORPUS_FILE
from ringattn.data.records import BadRecords, Piece
from ringattn.settings.data import DataConfig

KINDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".npy": "tokens",
    ".bin": "tokens",
    ".txt": "text",
    ".text": "text",
    ".md": "text",
}
DATASET_FILES = ("dataset_dict.json", "state.json")
# What a folder holds beside its data.
ASIDE = ("readme", "license", "notice")
UNREADABLE = (".json", ".arrow", ".csv", ".tsv", ".pdf", ".docx", ".zip", ".tar", ".safetensors", ".xml", ".html")
REMEDY = "text files, .jsonl, .parquet, a folder of Dataset.save_to_disk or of `ringattn tokenize`, .npy or .bin tokens"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Files of one kind, in the order they are read; `place` is what the user wrote.

    key, split, documents, dtype: as in `DataConfig`. held_out: the text is for evaluation alone.
    """

    kind: str
    files: tuple[Path, ...]
    place: str
    key: str = "text"
    split: str | None = None
    documents: str | None = None
    dtype: str | None = None
    held_out: bool = False

    def pieces(self, bad: BadRecords) -> Iterator[Piece]:
        """The documents, in pieces; bad records go to `bad`. Twice the same."""
        if self.kind == "kjv":
            return text.pieces([text.king_james()])
        if self.kind == "text":
            return text.read_files(self.files, bad)
        if self.kind == "jsonl":
            return jsonl.read_files(self.files, bad, key=self.key)
        if self.kind == "parquet":
            return tables.read_parquet(self.files, bad, key=self.key)
        return tables.read_dataset(self.files[0], bad, key=self.key, split=self.split)


def find_source(data: DataConfig) -> Source:
    """The training text that the settings name.

    Raises:
        ValueError: there is no such file, nothing in it, several kinds, or a setting that the kind has no use for.
    """
    if data.path is None:
        source = Source(kind="kjv", files=(), place="the King James Bible")
    else:
        forced = None if data.source == "file" else data.source
        kind, files = _kind_and_files(data.path, "data.path", forced)
        source = Source(
            kind=kind,
            files=files,
            place=data.path,
            key=data.text_key or "text",
            split=data.split,
            documents=data.documents,
            dtype=data.dtype,
        )
    _check_settings(data, source)
    return source


def find_held_out(data: DataConfig) -> Source | None:
    """The text that `data.held_out_path` names, of the kind that its name says; raises as `find_source` does."""
    if data.held_out_path is None:
        return None
    kind, files = _kind_and_files(data.held_out_path, "data.held_out_path", None)
    return Source(
        kind=kind,
        files=files,
        place=data.held_out_path,
        key=data.text_key or "text",
        split=data.split if kind == "datasets" else None,
        dtype=data.dtype,
        held_out=True,
    )


def check_plain(path: Path, setting: str) -> None:
    """ValueError where the name of a file says that it holds something else than text alone."""
    suffix = inner_suffix(path)
    if suffix in UNREADABLE or KINDS.get(suffix, "text") != "text":
        raise ValueError(
            f"{setting} is read as it stands and must be plain text, got {path}: write the words of its records into a "
            ".txt file."
        )


def _kind_and_files(path: str, setting: str, forced: str | None) -> tuple[str, tuple[Path, ...]]:
    place = Path(path)
    if place.is_dir():
        if forced in (None, "tokens") and (place / CORPUS_FILE).is_file():
            return "tokens", (place,)
        if forced in (None, "datasets") and any((place / name).is_file() for name in DATASET_FILES):
            return "datasets", (place,)
        if forced in ("tokens", "datasets"):
            marks = {"tokens": CORPUS_FILE, "datasets": "dataset_dict.json nor a state.json"}
            raise ValueError(f"{setting} must be a folder of {forced}, got {path}, which holds no {marks[forced]}.")
        return _of_folder(place, setting, forced)
    if place.is_file():
        files: tuple[Path, ...] = (place,)
    elif glob.has_magic(path):
        names = glob.glob(path, recursive=True)  # noqa: PTH207 (a pattern may be absolute)
        files = tuple(sorted(found for name in names if (found := Path(name)).is_file()))
        if not files:
            raise ValueError(f"{setting} must name files, got {path}, which matches none: check the pattern.")
    else:
        raise ValueError(f"{setting} must name a file, a folder or a glob, got {path}, which is not there.")
    if forced == "datasets":
        raise ValueError(f"{setting} must be the folder of a data set, got the file {path}: give its folder.")
    kinds = {file: forced or _kind(file, setting) for file in files}
    return _one_kind(kinds, path, setting), files


def _of_folder(folder: Path, setting: str, forced: str | None) -> tuple[str, tuple[Path, ...]]:
    """The files of one kind in a folder and the folders in it, hidden ones and the like of README left out."""
    kinds = {}
    for file in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if hidden or not file.is_file() or file.name.lower().startswith(ASIDE):
            continue
        kind = forced or KINDS.get(inner_suffix(file))
        if kind not in (None, "tokens"):
            kinds[file] = str(kind)
    if not kinds:
        raise ValueError(
            f"{setting} must hold something to read, got the folder {folder}, which has none of {REMEDY}: name other "
            f"files with a glob, for example {setting}='{folder}/**/*.py'."
        )
    return _one_kind(kinds, str(folder), setting), tuple(kinds)


def _kind(file: Path, setting: str) -> str:
    suffix = inner_suffix(file)
    if suffix in UNREADABLE:
        raise ValueError(
            f"{setting} takes {REMEDY}, got {file}: convert it, or force a kind, for example "
            f"data=jsonl {setting}={file}."
        )
    return KINDS.get(suffix, "text")


def _one_kind(kinds: dict[Path, str], place: str, setting: str) -> str:
    counted = Counter(kinds.values())
    if len(counted) > 1:
        found = " and ".join(f"{number} {kind}" for kind, number in counted.most_common())
        raise ValueError(
            f"the files of {setting} must be of one kind, got {found} in {place}: name some with a glob, for example "
            f"{setting}='{place.rstrip('/')}/*{next(iter(kinds)).suffix}'."
        )
    kind = next(iter(counted))
    if kind == "tokens" and len(kinds) > 1:
        raise ValueError(f"{setting} takes one file of tokens, got {len(kinds)} in {place}: join them, or name one.")
    return kind


def _check_settings(data: DataConfig, source: Source) -> None:
    """Settings that nobody would read are refused."""
    plain_tokens = source.kind == "tokens" and source.files[0].is_file()
    for name, value, serves, where in (
        ("text_key", data.text_key, source.kind in ("jsonl", "parquet", "datasets"), "jsonl, parquet and datasets"),
        ("split", data.split, source.kind == "datasets", "datasets folders"),
        ("documents", data.documents, plain_tokens, "plain .npy and .bin files of tokens"),
        ("dtype", data.dtype, plain_tokens and source.files[0].suffix.lower() == ".bin", ".bin files of tokens"),
    ):
        if value is not None and not serves:
            what = source.place if source.kind == "kjv" else f"{source.place}, which is {source.kind}"
            raise ValueError(f"data.{name} is for {where}, got data.{name}={value} with {what}: leave it out.")
