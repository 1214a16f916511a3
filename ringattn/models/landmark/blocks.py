"""Where the keys and values of past blocks wait: on the device, in the memory of the host, or in a mapped file.

All three hold one record a block, [rows, 2, block + 1, D] (key and value, before their positions), one behind the
other, so that a file only ever grows at its end; the landmarks' keys lie together once more, to be searched without
touching the blocks. On the device nothing stays but what `take` and `landmarks` give out.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from pathlib import Path

import torch
from torch import Tensor

# A file, or a tensor of records, grows by this factor when it is full.
_GROWTH = 1.5


class Blocks:
    """Past blocks of one layer on this rank.

    rows: batch x key heads. block: ordinary tokens. reserve: how many blocks will come, if known.
    """

    def __init__(
        self, rows: int, block: int, dim: int, *, dtype: torch.dtype, device: torch.device, home: Home, reserve: int = 0
    ) -> None:
        self.count = 0
        self._device, self._home = device, home
        self._records = home.array("blocks", (rows, 2, block + 1, dim), dtype, reserve)
        self._landmarks = home.array("landmarks", (rows, dim), dtype, reserve)

    def append(self, key: Tensor, value: Tensor) -> None:
        """Keep m blocks more: key, value [rows, m, block + 1, D]."""
        records = torch.stack((key, value), dim=2).transpose(0, 1)
        self._records.append(records)
        self._landmarks.append(key[:, :, -1].transpose(0, 1))
        self.count += records.shape[0]

    def cut(self, count: int) -> None:
        """Keep the first `count` blocks alone."""
        self._records.cut(count)
        self._landmarks.cut(count)
        self.count = count

    def take(self, rows: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [u, block + 1, D] on the device, of u (row, block) pairs, int64 [u] each."""
        records = self._records.read()
        found = records[blocks.to(records.device), rows.to(records.device)].to(self._device)
        return found[:, 0], found[:, 1]

    def landmarks(self, start: int, stop: int) -> Tensor:
        """The landmarks' keys of some blocks, [rows, stop - start, D], on the device."""
        return self._landmarks.read()[start:stop].to(self._device).transpose(0, 1)

    @property
    def device_bytes(self) -> int:
        """What stays on the device, room for blocks to come too."""
        return self._records.held + self._landmarks.held if self._home.on_device else 0

    @property
    def bytes(self) -> int:
        """What all blocks take, wherever they are."""
        return self._records.used + self._landmarks.used


class Home:
    """A place for arrays that grow. on_device: whether that is the device itself."""

    on_device = False

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def of_layer(self, layer: int) -> Home:
        """The place of one layer."""
        return self

    def array(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, reserve: int) -> Array:
        """An empty array of records of `shape`."""
        return Array(shape, dtype, self._device, reserve)


class DeviceHome(Home):
    on_device = True


class FileHome(Home):
    """Mapped files in a folder, new ones for each memory, which go when it does."""

    def __init__(self, folder: Path, prefix: str) -> None:
        super().__init__(torch.device("cpu"))
        self._folder, self._prefix = folder, prefix
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"the folder for past blocks, {folder}, can't be made ({error}): name another with retrieval.folder."
            ) from None

    def check(self) -> None:
        """ValueError where the folder can't be written to."""
        self.array("check", (1,), torch.uint8, 1)

    def of_layer(self, layer: int) -> Home:
        return FileHome(self._folder, f"{self._prefix}-layer{layer}")

    def array(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, reserve: int) -> Array:
        try:
            handle, path = tempfile.mkstemp(prefix=f"{self._prefix}-{name}-", suffix=".bin", dir=self._folder)
        except OSError as error:
            raise ValueError(
                f"past blocks can't be written to {self._folder} ({error}): name another folder with retrieval.folder."
            ) from None
        os.close(handle)
        return MappedArray(Path(path), shape, dtype, reserve)


class Array:
    """Records [count, *shape] that grow at their end."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, reserve: int) -> None:
        self._shape, self._dtype, self._device = shape, dtype, device
        self._count = 0
        self._data = self._made(reserve)

    def append(self, records: Tensor) -> None:
        """Add records [m, *shape]."""
        wanted = self._count + records.shape[0]
        if wanted > self._data.shape[0]:
            self._grow(max(wanted, int(_GROWTH * self._data.shape[0])))
        self._writable()[self._count : wanted] = records.to(self._data.device)
        self._count = wanted

    def cut(self, count: int) -> None:
        """Keep the first `count` records alone; their room stays."""
        self._count = min(count, self._count)

    def read(self) -> Tensor:
        """[count, *shape], where it lies."""
        return self._data[: self._count]

    @property
    def used(self) -> int:
        """Bytes of the records that are there."""
        return self._count * torch.Size(self._shape).numel() * self._dtype.itemsize

    @property
    def held(self) -> int:
        """Bytes of the room for records."""
        return self._data.nbytes

    def _made(self, capacity: int) -> Tensor:
        return torch.empty((capacity, *self._shape), dtype=self._dtype, device=self._device)

    def _writable(self) -> Tensor:
        return self._data

    def _grow(self, capacity: int) -> None:
        larger = self._made(capacity)
        larger[: self._count] = self._data[: self._count]
        self._data = larger


class MappedArray(Array):
    """Records in a file that is mapped into memory: the system keeps what is used of it there, and drops the rest."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: torch.dtype, reserve: int) -> None:
        self._path = path
        self._remove = weakref.finalize(self, path.unlink, missing_ok=True)
        super().__init__(shape, dtype, torch.device("cpu"), reserve)

    def read(self) -> Tensor:
        self._check_size()
        return super().read()

    def _writable(self) -> Tensor:
        self._check_size()
        return self._data

    def _made(self, capacity: int) -> Tensor:
        capacity = max(capacity, 1)
        size = capacity * torch.Size(self._shape).numel() * self._dtype.itemsize
        try:
            with self._path.open("r+b") as file:
                if hasattr(os, "posix_fallocate"):
                    # Reserved on the disk: to write into a mapped file on a full one ends the process.
                    os.posix_fallocate(file.fileno(), 0, size)
                else:
                    file.truncate(size)
        except OSError as error:
            raise ValueError(
                f"{size:,} bytes of past blocks can't be written to {self._path} ({error}): free some space, or name "
                "another folder."
            ) from None
        length = capacity * torch.Size(self._shape).numel()
        mapped: Tensor = torch.from_file(str(self._path), shared=True, size=length, dtype=self._dtype)
        return mapped.view(capacity, *self._shape)

    def _grow(self, capacity: int) -> None:
        # The file is the same one, and what was written to it is there.
        self._data = self._made(capacity)

    def _check_size(self) -> None:
        """A read behind the end of a mapped file ends the process, with no message."""
        wanted = self._data.nbytes
        found = self._path.stat().st_size if self._path.exists() else 0
        if found < wanted:
            raise ValueError(
                f"the past blocks in {self._path} were cut to {found:,} of {wanted:,} bytes by somebody else: read the "
                "text again, and leave the file alone."
            )
