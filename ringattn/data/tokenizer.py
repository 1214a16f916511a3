"""A byte-level BPE tokenizer trained on the run's own text, or the one of a model folder.

Only the `tokenizers` library is used, which imports in milliseconds: texts are encoded before any worker
starts.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT = "<|endoftext|>"
FILE = "tokenizer.json"
# Copied byte for byte: saving through transformers may rewrite a tokenizer.
TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "chat_template*",
    "*.tiktoken",
)


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer, the id that ends a document, and the digest of its file."""

    tokenizer: Tokenizer
    end_of_text: int

    @cached_property
    def vocabulary(self) -> int:
        """The ids that it may make are below this number."""
        return 1 + max(self.tokenizer.get_vocab().values())

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Token ids of each text, int64 [n]; texts are spread over the cores."""
        encoded = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(one.ids, dtype=np.int64) for one in encoded]

    def digest(self) -> str:
        """sha256 of what the tokenizer does: the same for a file that was only written in another way."""
        return hashlib.sha256(self.tokenizer.to_str().encode("utf-8")).hexdigest()


def train_bpe(texts: Iterable[str], vocabulary: int) -> TextTokenizer:
    """A byte-level BPE with at most `vocabulary` tokens: it encodes any text, and decodes it back exactly."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return TextTokenizer(tokenizer, int(tokenizer.token_to_id(END_OF_TEXT) or 0))


def load_tokenizer(folder: Path) -> TextTokenizer:
    """The `tokenizer.json` of a Hugging Face model or tokenizer folder, and the end-of-text token its settings name.

    Raises:
        ValueError: there is no fast tokenizer, or it names no end-of-text token.
    """
    tokenizer = read_tokenizer(folder)
    return TextTokenizer(tokenizer, _end_of_text(tokenizer, folder))


def read_tokenizer(folder: Path) -> Tokenizer:
    """The `tokenizer.json` of a Hugging Face model or tokenizer folder. ValueError where there is none."""
    path = folder / FILE
    if not path.is_file():
        raise ValueError(
            f"a model folder needs a fast tokenizer beside its weights, but {path} is not there: save one with "
            "AutoTokenizer.from_pretrained(...).save_pretrained(folder)."
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # The library raises nothing more special.
        raise ValueError(f"{path} is no tokenizer ({error}): save it anew.") from None
    # A saved tokenizer may say that inputs are cut or filled up to some length.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write a trained tokenizer so that `AutoTokenizer.from_pretrained(folder)` loads it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / FILE))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TEXT,
        "bos_token": END_OF_TEXT,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def copy_tokenizer(source: Path, folder: Path) -> list[str]:
    """Copy the files of a tokenizer byte for byte, for saving it through transformers may rewrite it; their names."""
    folder.mkdir(parents=True, exist_ok=True)
    found = sorted({file for pattern in TOKENIZER_FILES for file in source.glob(pattern) if file.is_file()})
    for file in found:
        shutil.copyfile(file, folder / file.name)
    return [file.name for file in found]


def _end_of_text(tokenizer: Tokenizer, folder: Path) -> int:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        token = _settings(folder / name).get("eos_token")
        token = token.get("content") if isinstance(token, dict) else token
        if token is None:
            continue
        number = tokenizer.token_to_id(str(token))
        if number is None:
            raise ValueError(
                f"each document ends with the tokenizer's eos_token, but {folder / name} names {token!r}, which "
                f"{FILE} does not have: put one of the files right."
            )
        return int(number)
    number = _settings(folder / "config.json").get("eos_token_id")
    number = number[0] if isinstance(number, list) and number else number
    if not isinstance(number, int):
        raise ValueError(
            f"each document ends with the tokenizer's eos_token, but {folder} names none: write one into "
            'tokenizer_config.json, for example {"eos_token": "</s>"}.'
        )
    return number


def _settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): save the tokenizer anew.") from None
    return values if isinstance(values, dict) else {}
