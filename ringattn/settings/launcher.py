"""How workers start, and where a run writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ringattn.settings.rules import positive


@dataclass(frozen=True, kw_only=True)
class LauncherConfig:
    """Workers on this machine. `threads` per worker (null: cores / processes)."""

    processes: int = 2
    threads: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclass(frozen=True, kw_only=True)
class RunFolderConfig:
    """Where a run writes. An existing folder is refused unless `overwrite` empties it or `resume=auto` goes on in
    it."""

    folder: str
    name: str = "run"
    overwrite: bool = False
    resume: Literal["never", "auto"] = "never"


def check_launcher(launcher: LauncherConfig) -> None:
    """The rules that one field's type cannot state; ValueError where one is broken."""
    positive({"launcher.processes": launcher.processes, "launcher.threads": launcher.threads})


def check_run_folder(run: RunFolderConfig) -> None:
    """The rules that one field's type cannot state; ValueError where one is broken."""
    if run.overwrite and run.resume == "auto":
        raise ValueError(
            "run.overwrite=true empties the run folder and run.resume=auto goes on in it: write one of them, not both."
        )
