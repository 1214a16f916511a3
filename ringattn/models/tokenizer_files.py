"""A model's tokenizer, which is copied byte for byte: saving it through transformers may rewrite it."""

from __future__ import annotations

import shutil
from pathlib import Path

TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "chat_template*",
    "*.tiktoken",
)


def copy_tokenizer(source: Path, target: Path) -> list[str]:
    """Copy the tokenizer's files from one folder to another; their names."""
    found = sorted({file for pattern in TOKENIZER_FILES for file in source.glob(pattern) if file.is_file()})
    for file in found:
        shutil.copyfile(file, target / file.name)
    return [file.name for file in found]
