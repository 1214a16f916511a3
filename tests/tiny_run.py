"""A run that takes seconds: a LLaMA of a few thousand weights on a made-up text."""

import random
from pathlib import Path

WORDS = [
    "the",
    "and",
    "of",
    "to",
    "in",
    "a",
    "that",
    "he",
    "shall",
    "unto",
    "for",
    "i",
    "his",
    "they",
    "be",
    "is",
]


def write_text(path: Path, *, lines: int = 400) -> str:
    """Lines of words with some order to learn; returns the text."""
    choose = random.Random(0)
    text = "".join(" ".join(choose.choices(WORDS[i % 7 :], k=9)) + ".\n" for i in range(lines))
    path.write_text(text, encoding="utf-8")
    return text


ARCHITECTURE = {
    "vocabulary": 290,
    "hidden_size": 16,
    "intermediate_size": 32,
    "layers": 2,
    "heads": 2,
    "key_value_heads": 1,
    "head_dim": 8,
    "max_positions": 64,
    "attention_bias": False,
    "local_start": 0.0,
}
TRAINER = {"steps": 3, "sequence_length": 32, "loss_chunk": 8, "evaluate_sequences": 2}


def tiny_mapping(folder: Path) -> dict:
    """The nested settings of a tiny run on `folder/text.txt`, writing to `folder/run`."""
    return {
        "model": {"architecture": dict(ARCHITECTURE)},
        "data": {"source": "file", "path": str(folder / "text.txt"), "held_out": 0.1},
        "run": {"folder": str(folder / "run")},
        "trainer": dict(TRAINER),
    }


def tiny_overrides(folder: Path) -> list[str]:
    """The same as words on the command line."""
    return [
        *(f"model.architecture.{key}={value}" for key, value in ARCHITECTURE.items()),
        *(f"trainer.{key}={value}" for key, value in TRAINER.items()),
        f"data.path={folder / 'text.txt'}",
        "data.held_out=0.1",
        f"run.folder={folder / 'run'}",
    ]
