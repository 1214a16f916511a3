"""Tokens on disk, and which of them a step reads.

The order is a function of (seed, step) alone: a run that stops and starts again, or runs on other ranks with
the same number of sequences a step, reads the same text in the same order. In each epoch the text is cut into
windows that do not overlap, from an offset that the epoch draws, and the windows are shuffled.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ringattn.planner.architecture import architecture_of, read_config
from ringattn.settings.run import RunConfig
from ringattn.training.text import read_text, split
from ringattn.training.tokenizer import encode, load_tokenizer, save_tokenizer, train_bpe


@dataclass(frozen=True, kw_only=True)
class Sequence:
    """One sequence: what a model reads and what it is to predict.

    inputs, targets: int64 [1, L]; a target of -100 predicts nothing. documents: cumulative lengths of packed documents
    from 0 to L, or None for one document.
    """

    inputs: np.ndarray
    targets: np.ndarray
    documents: tuple[int, ...] | None = None

    @property
    def num_targets(self) -> int:
        return int((self.targets >= 0).sum())


@dataclass(frozen=True, kw_only=True)
class TokenizedText:
    """Training and held-out token ids, int32 [n] each, memory-mapped, and figures of the text."""

    train: np.ndarray
    held_out: np.ndarray
    vocabulary: int
    held_out_characters: int
    length: int
    seed: int

    def sequence(self, index: int) -> Sequence:
        """The training sequence number `index` of the run."""
        start = window_start(index, seed=self.seed, length=self.length, tokens=len(self.train))
        inputs, targets = read_window(self.train, start, self.length)
        return Sequence(inputs=inputs, targets=targets)

    def num_targets(self, index: int) -> int:
        return self.length

    def fingerprint(self) -> dict[str, str]:
        """What tells one text from another."""
        return {"tokens": hashlib.sha256(np.ascontiguousarray(self.train).tobytes()).hexdigest()}


def prepare(config: RunConfig, folder: Path) -> TokenizedText:
    """Read, split and tokenize the text of a run into `folder` (`train.npy`, `held_out.npy`, `tokenizer/`).

    Raises:
        ValueError: the text is missing, empty, or shorter than one sequence.
    """
    length = config.trainer.sequence_length
    text = read_text(config.data)
    train_text, held_out_text = split(text, config.data.held_out)
    if config.model.architecture is None:
        tokenizer = load_tokenizer(Path(str(config.model.path)))
    else:
        tokenizer = train_bpe(train_text, config.model.architecture.vocabulary)
    train, held_out = encode(tokenizer, train_text), encode(tokenizer, held_out_text)
    if config.model.path is not None:
        _check_vocabulary(Path(config.model.path), max(train.max(initial=0), held_out.max(initial=0)))
    source = "the King James Bible" if config.data.path is None else config.data.path
    for name, tokens, remedy in (
        ("training", train, "lower trainer.sequence_length or give a longer text"),
        ("held-out", held_out, "lower trainer.sequence_length, raise data.held_out or give a longer text"),
    ):
        # One token more than the sequence: each position predicts the next one.
        if len(tokens) <= length:
            raise ValueError(
                f"the {name} text must be longer than one sequence (trainer.sequence_length={length} "
                f"tokens), but {source} has {len(tokens)} {name} tokens: {remedy}."
            )
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "train.npy", train)
    np.save(folder / "held_out.npy", held_out)
    if config.model.path is None:
        save_tokenizer(tokenizer, folder / "tokenizer")
    summary = {
        "vocabulary": tokenizer.get_vocab_size(),
        "train_tokens": len(train),
        "held_out_tokens": len(held_out),
        "held_out_characters": len(held_out_text),
    }
    (folder / "text.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return load_tokens(folder, length=length, seed=config.trainer.seed)


def _check_vocabulary(model: Path, largest: int) -> None:
    size = architecture_of(read_config(model)).vocabulary
    if largest >= size:
        raise ValueError(
            f"a model's tokenizer and embedding must fit each other, but {model} makes token {largest} of this text "
            f"and embeds {size} tokens: save the model with the tokenizer that it was trained with."
        )


def load_tokens(folder: Path, *, length: int, seed: int) -> TokenizedText:
    """What `prepare` wrote, memory-mapped."""
    summary = json.loads((folder / "text.json").read_text(encoding="utf-8"))
    return TokenizedText(
        train=np.load(folder / "train.npy", mmap_mode="r"),
        held_out=np.load(folder / "held_out.npy", mmap_mode="r"),
        vocabulary=summary["vocabulary"],
        held_out_characters=summary["held_out_characters"],
        length=length,
        seed=seed,
    )


def window_start(index: int, *, seed: int, length: int, tokens: int) -> int:
    """Where the window number `index` of the run starts in a text of `tokens` tokens.

    A window takes `length + 1` tokens, the last one only as a target.
    """
    slack = tokens - length - 1
    if slack < 0:
        raise ValueError(f"a text of {tokens} tokens has no window of {length} + 1: give a longer text.")
    windows = max(1, (tokens - 1) // length - 1)  # One less than fit, so that an epoch may shift them.
    epoch, place = divmod(index, windows)
    generator = np.random.default_rng((seed, epoch))
    offset = int(generator.integers(0, min(slack, tokens - 1 - windows * length) + 1))
    order = generator.permutation(windows)
    return offset + int(order[place]) * length


def read_window(tokens: np.ndarray, start: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(inputs, targets), int64 [1, length] each: the target of a position is the token after it."""
    window = np.asarray(tokens[start : start + length + 1], dtype=np.int64)[None]
    return window[:, :-1], window[:, 1:]
