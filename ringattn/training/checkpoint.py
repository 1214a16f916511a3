"""Checkpoints in Hugging Face's own format: safetensors and tokenizer, loaded by plain `from_pretrained`.

    checkpoints/step-000100/     config.json, model.safetensors, tokenizer.json, ...
    checkpoints/latest           a link to the newest one

A checkpoint is written aside, flushed to the disk, renamed to its place, and only then does `latest` move, by
a rename that replaces the old link in one operation. A crash or a full disk at any moment leaves the previous
checkpoint whole and `latest` pointing at it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

LATEST = "latest"


def save_checkpoint(write: Callable[[Path], None], folder: Path, *, step: int) -> Path:
    """Save what `write(path)` writes as the checkpoint of `step` under `folder`, and drop the older ones.

    Raises:
        ValueError: the disk is full or cannot be written; says which checkpoint is still whole.
    """
    name = f"step-{step:06d}"
    aside, place = folder / f".{name}.partial", folder / name
    previous = latest(folder)
    if place.exists():
        raise ValueError(f"a step is saved once, but {place} exists: remove it, or save another step.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        write(aside)
        _flush(aside)
        aside.rename(place)
        _point_latest(folder, name)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        kept = f"the checkpoint {previous} is whole" if previous else "no earlier checkpoint exists"
        raise ValueError(
            f"the checkpoint of step {step} could not be written to {folder} ({error}); {kept}. Free some "
            "space, or choose another disk with run.folder=..."
        ) from error
    for old in folder.glob("step-*"):
        if old.name != name:
            shutil.rmtree(old, ignore_errors=True)
    return place


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint under `folder`, or None."""
    link = folder / LATEST
    return link.resolve() if link.exists() else None


def _point_latest(folder: Path, name: str) -> None:
    link = folder / f".{LATEST}.partial"
    link.unlink(missing_ok=True)
    link.symlink_to(name, target_is_directory=True)
    link.replace(folder / LATEST)


def _flush(folder: Path) -> None:
    """Wait until the disk has everything: a rename must not become durable before what it names."""
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
