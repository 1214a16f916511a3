"""Locks that a stopped compilation leaves. DeepSpeed compiles operators when it starts; a process that is killed
meanwhile
leaves a lock in the folder of the build, for which every later one waits without a word. No torch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

# A compiler runs in the folder of what it builds; before and after it the lock is held for a moment.
STALE_SECONDS = 60.0


def build_folder() -> Path:
    """Where the trainer's operators are built: a folder of its own, unless the environment names one."""
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR", Path.home() / ".cache" / "ringattn" / "torch_extensions"))


def build_folders() -> list[Path]:
    """That folder, and torch's own."""
    return list(dict.fromkeys([build_folder(), Path.home() / ".cache" / "torch_extensions"]))


def check_build_locks(folder: Path) -> None:
    """Raises ValueError where a lock is there that nobody can be holding any more."""
    for lock in stale_locks(folder):
        age = time.time() - lock.stat().st_mtime
        raise ValueError(
            f"DeepSpeed would wait for ever for {lock}, left {age / 60:.0f} minutes ago by a process that was "
            "stopped while it compiled an operator: remove that file, then start again."
        )


def stale_locks(folder: Path) -> Iterator[Path]:
    """Locks under `folder` that are older than a minute, and where no process of this machine works."""
    for lock in folder.glob("**/lock"):
        if time.time() - lock.stat().st_mtime > STALE_SECONDS and not _is_built_in(lock.parent):
            yield lock


def _is_built_in(folder: Path) -> bool:
    """Whether a process of this machine works in the folder; true where that can't be seen."""
    processes = Path("/proc")
    if not processes.is_dir():
        return True
    for place in processes.glob("[0-9]*/cwd"):
        try:
            if place.resolve() == folder.resolve():
                return True
        except OSError:
            continue
    return False
