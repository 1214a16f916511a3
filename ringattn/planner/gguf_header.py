"""The header of a GGUF file: its metadata and its tensors' places, read in milliseconds with neither torch nor gguf.

After the GGUF specification, version 3 (ggml-org/ggml, docs/gguf.md): magic, version, the numbers of tensors and of
metadata, the metadata, then each tensor's name, shape, type and offset. Arrays (a vocabulary's words) are passed over.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
# Tensor types: (weights of a block, its bytes).
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 30: (1, 2),
}  # fmt: skip
_VERSIONS = (2, 3)


@dataclass(frozen=True)
class GgufHeader:
    """metadata: without arrays. tensors: each one's name, and the byte of the file that it ends before."""

    metadata: dict[str, Any]
    tensors: dict[str, int]


def read_header(path: Path) -> GgufHeader:
    """The header of the file at `path`.

    Raises:
        ValueError: it is no GGUF file, or ends before its last tensor does.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError(f"a GGUF file starts with the letters GGUF, but {path} does not: give another file.")
        try:
            (version,) = struct.unpack("<I", _take(file, 4))
            if version not in _VERSIONS:
                raise ValueError(
                    f"GGUF is read in versions 2 and 3 (little-endian), got {version} in {path}: convert the file."
                )
            tensors, pairs = struct.unpack("<QQ", _take(file, 16))
            metadata = {}
            for _ in range(pairs):
                name = _string(file)
                (kind,) = struct.unpack("<I", _take(file, 4))
                value = _value(file, kind)
                if value is not None:
                    metadata[name] = value
            ends = {}
            for _ in range(tensors):
                name = _string(file)
                (dims,) = struct.unpack("<I", _take(file, 4))
                shape = struct.unpack(f"<{dims}Q", _take(file, 8 * dims))
                form, offset = struct.unpack("<IQ", _take(file, 12))
                weights, block = _BLOCKS.get(form, (math.prod(shape), 1))
                ends[name] = offset + math.prod(shape) // weights * block
        except (EOFError, KeyError, UnicodeDecodeError):
            raise _truncated(path, size) from None
        alignment = int(metadata.get("general.alignment", 32))
        data = -(-file.tell() // alignment) * alignment
    if ends and data + max(ends.values()) > size:
        raise _truncated(path, size)
    return GgufHeader(metadata, {name: data + end for name, end in ends.items()})


def gguf_config(path: Path) -> dict[str, Any]:
    """The sizes in a GGUF file's header, under the names of a `config.json`.

    Raises:
        ValueError: as `read_header`; or a size is missing.
    """
    header = read_header(path)
    kind = header.metadata.get("general.architecture")
    found = {
        "model_type": kind,
        "vocab_size": header.metadata.get(f"{kind}.vocab_size"),
        "tie_word_embeddings": "output.weight" not in header.tensors,
    }
    for ours, theirs in _SIZES.items():
        found[ours] = header.metadata.get(f"{kind}.{theirs}")
    return {name: value for name, value in found.items() if value is not None}


_SIZES: Mapping[str, str] = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
    "rope_theta": "rope.freq_base",
}


def _truncated(path: Path, size: int) -> ValueError:
    return ValueError(f"the GGUF file {path} is cut short: it ends after {size:,} bytes. Copy or download it again.")


def _take(file: BinaryIO, count: int) -> bytes:
    found = file.read(count) if count < 2**31 else b""
    if len(found) < count:
        raise EOFError
    return found


def _string(file: BinaryIO) -> str:
    (count,) = struct.unpack("<Q", _take(file, 8))
    return _take(file, count).decode("utf-8")


def _value(file: BinaryIO, kind: int) -> Any:
    """One value; None for an array, which is passed over."""
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        form = _NUMBERS[kind]
        return struct.unpack(f"<{form}", _take(file, struct.calcsize(form)))[0]
    inner, count = struct.unpack("<IQ", _take(file, 12))
    if inner in _NUMBERS:
        _take(file, struct.calcsize(_NUMBERS[inner]) * count)
        return None
    for _ in range(count):
        _value(file, inner)
    return None
