"""A byte-level BPE tokenizer trained on the run's own text, or the one of a model folder.

Only the `tokenizers` library is used, which imports in milliseconds: texts are encoded before any worker
starts.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT = "<|endoftext|>"
LINES_AT_ONCE = 4096


def train_bpe(text: str, vocabulary: int) -> Tokenizer:
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
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    return tokenizer


def load_tokenizer(folder: Path) -> Tokenizer:
    """The `tokenizer.json` of a Hugging Face model folder."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ValueError(
            f"model.path needs a fast tokenizer beside its weights, but {path} is not there: save one with "
            "AutoTokenizer.from_pretrained(...).save_pretrained(folder)."
        )
    return Tokenizer.from_file(str(path))


def encode(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """Token ids, int32 [n]. Lines are encoded on their own, in parallel, and joined."""
    lines = text.splitlines(keepends=True)
    parts = [np.zeros(0, dtype=np.int32)]
    for start in range(0, len(lines), LINES_AT_ONCE):
        batch = tokenizer.encode_batch_fast(lines[start : start + LINES_AT_ONCE], add_special_tokens=False)
        parts += [np.array(one.ids, dtype=np.int32) for one in batch]
    return np.concatenate(parts)


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write a trained tokenizer so that `AutoTokenizer.from_pretrained(folder)` loads it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TEXT,
        "bos_token": END_OF_TEXT,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
