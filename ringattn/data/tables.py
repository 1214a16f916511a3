"""Tables with a column of texts: parquet files, and folders of Hugging Face's `Dataset.save_to_disk`.

Both are read by their own libraries (the extra `data`), a few rows at a time. No code from a data set is run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from ringattn.data.records import NAME_THE_KEY, BadRecords, Piece, keys_there, text_of
from ringattn.data.text import pieces

ROWS = 64  # At one time: a row may be a book.


def read_parquet(files: Iterable[Path], bad: BadRecords, *, key: str) -> Iterator[Piece]:
    """The rows of each file in order; a row group that cannot be read is one bad record."""
    pyarrow, parquet = _library("pyarrow", "parquet files"), _library("pyarrow.parquet", "parquet files")
    for path in files:
        try:
            file = parquet.ParquetFile(path)
        except (pyarrow.ArrowException, OSError) as error:
            bad.add(str(path), f"is cut off or no parquet file ({_first(error)})", "copy it anew")
            continue
        with file:
            schema = file.schema_arrow
            if key not in schema.names:
                bad.add(str(path), f"has {keys_there(key, schema.names, _texts(pyarrow, schema))}", NAME_THE_KEY)
                continue
            row = 0
            for group in range(file.num_row_groups):
                end = row + file.metadata.row_group(group).num_rows
                try:
                    for batch in file.iter_batches(ROWS, row_groups=[group], columns=[key]):
                        values = batch.column(0).to_pylist()
                        yield from _rows(values, key, path, row, bad)
                        row += len(values)
                except (pyarrow.ArrowException, OSError) as error:
                    bad.add(
                        f"{path} rows {row + 1} to {end}", f"cannot be read ({_first(error)})", "copy the file anew"
                    )
                row = end


def read_dataset(folder: Path, bad: BadRecords, *, key: str, split: str | None) -> Iterator[Piece]:
    """The rows of a saved data set in order.

    Raises:
        ValueError: the folder cannot be read, has no such part, or no such column.
    """
    dataset = _part(folder, split)
    if key not in dataset.column_names:
        texts = [name for name, kind in dataset.features.items() if getattr(kind, "dtype", "") in TEXTS]
        raise ValueError(f"{folder} has {keys_there(key, dataset.column_names, texts)}: {NAME_THE_KEY}.")
    rows = dataset.select_columns([key])
    for start in range(0, len(rows), ROWS):
        try:
            values = rows[start : start + ROWS][key]
        except (OSError, ValueError) as error:  # Arrow's errors are of both kinds.
            place = f"{folder} rows {start + 1} to {min(start + ROWS, len(rows))}"
            bad.add(place, f"cannot be read ({_first(error)})", "copy the folder anew")
            continue
        yield from _rows(values, key, folder, start, bad)


TEXTS = ("string", "large_string")


def _part(folder: Path, split: str | None) -> Any:
    datasets = _library("datasets", "datasets folders")
    try:
        found = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{folder} is not a whole data set ({_first(error)}): save it anew with Dataset.save_to_disk."
        ) from error
    if not isinstance(found, dict):
        if split is not None:
            raise ValueError(f"{folder} has no parts, got data.split={split}: leave data.split out.")
        return found
    name = split or "train"
    if name not in found:
        raise ValueError(f"{folder} has no part {name!r} among {', '.join(found)}: write data.split=NAME.")
    return found[name]


def _rows(values: list[Any], key: str, place: Path, before: int, bad: BadRecords) -> Iterator[Piece]:
    for number, value in enumerate(values, before + 1):
        text = text_of({key: value}, key, place=f"{place} row {number}", bad=bad)
        if text is not None:
            yield from pieces([text])


def _texts(pyarrow: Any, schema: Any) -> list[str]:
    return [column.name for column in schema if str(column.type) in TEXTS]


def _first(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__


def _library(name: str, what: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise ValueError(
            f"{what} are read with the package {name.split('.')[0]}, which is not installed: pip install "
            "'ringattn[data]'."
        ) from None
