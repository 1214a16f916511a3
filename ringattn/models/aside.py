"""A folder that is there whole or not at all: written beside its place, then renamed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_aside(folder: Path) -> Iterator[Path]:
    """A new folder to write into, which becomes `folder` where the `with` ends without an error.

    Raises FileExistsError where `folder` exists, before and after the writing.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists")
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        yield aside
        aside.chmod(0o755)
        if folder.exists():
            raise FileExistsError(f"{folder} exists")
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
