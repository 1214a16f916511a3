"""Parts of an evaluation that were read already: what was stopped goes on there.

Each batch of sequences is a part: a file of its losses or predictions, named by what was read and by whom.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ringattn.data.sequence import Sequence

FOLDER = "parts"


class Reader(Protocol):
    """What an evaluation asks of a model: see `ringattn.training.reader.SequenceReader`."""

    def sequence_losses(self, sequence: Sequence) -> Tensor: ...

    def predictions(self, sequence: Sequence) -> tuple[Tensor, Tensor]: ...


class PartsReader:
    """Reads as `reader`, but not what was read before. Collective over torch's default group to make.

    reader: of this rank's row. folder: of the evaluation, on rank 0, where parts are kept until `clear`; those that
    rank 0 finds there serve all. model: on rank 0, all that figures depend on but the text: the model, its settings,
    versions. writes: whether this rank keeps what its row reads; where it can't, it warns and goes on without.
    """

    def __init__(self, reader: Reader, folder: Path | None, *, model: str, writes: bool) -> None:
        self._reader, self._writes, self._keeps = reader, writes, writes
        shared = [None if folder is None else (folder / FOLDER, model, _read(folder / FOLDER))]
        dist.broadcast_object_list(shared)
        assert shared[0] is not None
        self._place, self._model, self._known = shared[0]
        self._found, self._seconds = 0, 0.0

    def before(self) -> tuple[int, float]:
        """(how many parts all rows took as they were, the seconds that reading them had taken). Collective."""
        every: list[tuple[int, float]] = [(0, 0.0)] * dist.get_world_size()
        dist.all_gather_object(every, (self._found, self._seconds) if self._writes else (0, 0.0))
        return sum(found for found, _ in every), sum(seconds for _, seconds in every)

    def sequence_losses(self, sequence: Sequence) -> Tensor:
        def read() -> dict[str, np.ndarray]:
            return {"losses": self._reader.sequence_losses(sequence).cpu().numpy()}

        return torch.from_numpy(self._part("losses", sequence, read)["losses"])

    def predictions(self, sequence: Sequence) -> tuple[Tensor, Tensor]:
        def read() -> dict[str, np.ndarray]:
            predicted, losses = self._reader.predictions(sequence)
            return {"predicted": predicted.cpu().numpy(), "losses": losses.cpu().numpy()}

        part = self._part("predictions", sequence, read)
        return torch.from_numpy(part["predicted"]), torch.from_numpy(part["losses"])

    def clear(self) -> None:
        """Remove the parts: the evaluation is through, and written."""
        if self._writes:
            shutil.rmtree(self._place, ignore_errors=True)

    def _part(self, kind: str, sequence: Sequence, read: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        name = hashlib.sha256(f"{self._model} {kind} {sequence.inputs.shape} {sequence.documents}".encode())
        for tokens in (sequence.inputs, sequence.targets):
            name.update(np.ascontiguousarray(tokens).tobytes())
        key = name.hexdigest()[:32]
        part = self._known.get(key)
        if part is not None:
            self._found += 1
            self._seconds += float(part["seconds"])
            return part
        began = time.perf_counter()
        part = read()
        if self._keeps:
            self._write(key, part | {"seconds": np.array(time.perf_counter() - began)})
        return part

    def _write(self, key: str, part: dict[str, np.ndarray]) -> None:
        aside = self._place / f"{key}.aside"
        try:
            self._place.mkdir(parents=True, exist_ok=True)
            with aside.open("wb") as file:
                np.savez_compressed(file, **part)  # type: ignore[arg-type]
            aside.replace(self._place / f"{key}.npz")
        except OSError as error:
            self._keeps = False
            print(
                f"warning: {self._place} cannot be written ({error.strerror}): if this evaluation is stopped, it will "
                "start anew.",
                file=sys.stderr,
                flush=True,
            )


def _read(place: Path) -> dict[str, dict[str, np.ndarray]]:
    """Those in a folder, by their names; a damaged one is read again from the model."""
    found = {}
    for path in sorted(place.glob("*.npz")):
        try:
            with np.load(path) as arrays:
                found[path.stem] = dict(arrays)
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            continue
    return found
