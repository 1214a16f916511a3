"""Checkpoints: a Hugging Face folder, loaded by plain `from_pretrained`, with the state that the run goes on from.

    checkpoints/step-000100/               config.json, model.safetensors, tokenizer.json, ...
    checkpoints/step-000100/training/      `ringattn.training.state`
    checkpoints/step-000100/digests.json   SHA-256 of every other file
    checkpoints/latest                     a link to the newest one

A checkpoint is written aside, flushed to the disk and renamed to its place in one operation; then `latest` moves by a
rename as well. A crash or a full disk at any moment leaves the previous checkpoint whole: whatever is called step-N is
complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors import SafetensorError

LATEST = "latest"
DIGESTS = "digests.json"
_PIECE = 1 << 22


def save_checkpoint(write: Callable[[Path], None], folder: Path, *, step: int, keep: int = 1) -> Path:
    """Save what `write(path)` writes as the checkpoint of `step` under `folder`, and leave the newest `keep`.

    All ranks call it together, and each rank's `write` writes files of its own; it communicates nothing, so that a rank
    that fails does not leave the others waiting.

    Raises:
        ValueError: on every rank, where the disk is full or cannot be written; says which checkpoint is still whole.
    """
    name, first = f"step-{step:06d}", _rank() == 0
    aside, place = folder / f".{name}.partial", folder / name
    previous = newest(folder)
    if _any("there" if place.exists() else ""):
        raise ValueError(f"a step is saved once, but {place} exists: remove it, or save another step.")
    failed = _tried(lambda: _make_empty(aside)) if first else ""
    failed = _any(failed) or _any(_tried(lambda: write(aside)))
    if not failed:
        failed = _any(_tried(lambda: _finish(aside, place, keep)) if first else "")
    if failed:
        if first:
            shutil.rmtree(aside, ignore_errors=True)
        kept = f"the checkpoint {previous} is whole" if previous else "no earlier checkpoint exists"
        raise ValueError(
            f"the checkpoint of step {step} could not be written to {folder} ({failed}); {kept}. Free some "
            "space, or choose another disk with run.folder=..."
        )
    return place


def newest(folder: Path) -> Path | None:
    """The checkpoint of the highest step under `folder`, or None. What bears the name of a step is complete."""
    found = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name) and path.is_dir()]
    return max(found, key=lambda path: int(path.name.removeprefix("step-")), default=None)


def verify(checkpoint: Path) -> None:
    """Check every file of a checkpoint against its digest; the ranks share the work.

    Raises:
        ValueError: on every rank: a file is missing, or is not what was written; names it and the checkpoint before.
    """
    path = checkpoint / DIGESTS
    fault = ""
    if not path.is_file():
        fault = f"{DIGESTS} is missing"
    else:
        world = dist.get_world_size() if dist.is_initialized() else 1
        expected: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        for number, (name, digest) in enumerate(sorted(expected.items())):
            if number % world == _rank() and not fault:
                if not (checkpoint / name).is_file():
                    fault = f"{name} is missing"
                elif _digest(checkpoint / name) != digest:
                    fault = f"{name} is not what was written (another SHA-256)"
    fault = _any(fault)
    if fault:
        others = [p for p in checkpoint.parent.glob("step-*") if p != checkpoint]
        before = max(others, default=None)
        remedy = f"remove the folder to go on from {before.name}" if before else "there is no other one; start again"
        raise ValueError(f"the checkpoint {checkpoint} is damaged: {fault}: {remedy}.")


def _make_empty(aside: Path) -> None:
    for left in aside.parent.glob(".step-*.partial"):
        # Of a save that was killed.
        shutil.rmtree(left, ignore_errors=True)
    aside.mkdir(parents=True)


def _finish(aside: Path, place: Path, keep: int) -> None:
    files = sorted(path for path in aside.rglob("*") if path.is_file())
    digests = {str(path.relative_to(aside)): _digest(path) for path in files}
    (aside / DIGESTS).write_text(json.dumps(digests, indent=2) + "\n", encoding="utf-8")
    _flush(aside)
    aside.rename(place)
    _flush_folder(place.parent)
    _point_latest(place.parent, place.name)
    steps = sorted(path for path in place.parent.glob("step-*") if path != place)
    for old in steps[: max(0, len(steps) - (keep - 1))]:
        shutil.rmtree(old, ignore_errors=True)


def _point_latest(folder: Path, name: str) -> None:
    link = folder / f".{LATEST}.partial"
    link.unlink(missing_ok=True)
    link.symlink_to(name, target_is_directory=True)
    link.replace(folder / LATEST)


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            found.update(piece)
    return found.hexdigest()


def _flush(folder: Path) -> None:
    """Wait until the disk has everything: a rename must not become durable before what it names."""
    for path in [*folder.rglob("*"), folder]:
        _flush_folder(path)


def _flush_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _tried(action: Callable[[], None]) -> str:
    """What went wrong with the disk, in words; nothing where nothing did."""
    try:
        action()
    except (OSError, SafetensorError) as error:
        return str(error) or type(error).__name__
    return ""


def _any(fault: str) -> str:
    """The first fault of any rank, on every rank."""
    if not dist.is_initialized():
        return fault
    faults: list[Any] = [""] * dist.get_world_size()
    dist.all_gather_object(faults, fault)
    return next((f"rank {rank}: {found}" for rank, found in enumerate(faults) if found), "")


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0
