"""What models are trained and tested on: pairs to recall, a needle, bytes of a text.

Pairs are Zoology's (S. Arora et al., arXiv 2312.04927), of `ringattn.evaluation.recall`. The needle is a key and its
value at a depth among other tokens, and the key again at the end: what needles in text ask, without words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ringattn.data.text import king_james, read_whole
from ringattn.evaluation.recall import recall_cases
from ringattn.evaluation.samples import Case, Sample, generator
from study.effort import Effort

DEPTHS = (0.1, 0.5, 0.9)
# Training and tests draw from generators of different seeds.
HELD_OUT = 1 << 20


def recall(effort: Effort, lengths: Sequence[int], seed: int) -> list[Case]:
    """Cases of every length and number of pairs."""
    return recall_cases(
        lengths,
        effort.pairs,
        vocabulary=effort.vocabulary,
        special=(),
        power=effort.power,
        seed=seed,
        start=np.empty(0, dtype=np.int64),
    )


def needle(effort: Effort, length: int, depth: float | None, seed: int, number: int) -> Sample:
    """A sample with the needle at `depth` of what lies before the question, anywhere for None."""
    random = generator(seed, "needle", length, "anywhere" if depth is None else round(1000 * depth), number)
    half = effort.vocabulary // 2
    key, value = int(random.integers(half)), half + int(random.integers(half))
    tokens = random.choice(np.setdiff1d(np.arange(effort.vocabulary), [key]), length)
    last = length - 4
    place = int(random.integers(last + 1)) if depth is None else round(depth * last)
    tokens[place : place + 2] = tokens[-2:] = key, value
    return Sample(tokens, ((length - 1, length),), length - 1)


def as_batch(samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """(tokens, labels), int64 [B, n]; labels are -100 but at answers."""
    tokens = np.stack([sample.tokens for sample in samples])
    labels = np.full_like(tokens, -100)
    for row, sample in enumerate(samples):
        for start, stop in sample.answers:
            labels[row, start:stop] = tokens[row, start:stop]
    return torch.from_numpy(tokens), torch.from_numpy(labels)


def training_batch(effort: Effort, cases: Sequence[Case], step: int) -> tuple[Tensor, Tensor]:
    """Rows of all numbers of pairs in turn, then of needles."""
    samples = []
    for number in range(step * effort.batch, (step + 1) * effort.batch):
        kind = number % (len(cases) + effort.needles)
        samples.append(
            cases[kind].make(number) if kind < len(cases) else needle(effort, effort.length, None, effort.seed, number)
        )
    return as_batch(samples)


@dataclass(frozen=True)
class Text:
    """Bytes of a text, uint8, in two parts: the last twentieth is held out."""

    train: np.ndarray
    held_out: np.ndarray

    @classmethod
    def read(cls, effort: Effort) -> Text:
        text = king_james() if effort.text == "kjv" else read_whole(Path(effort.text))
        data = np.frombuffer(text.encode(), dtype=np.uint8)
        cut = len(data) - len(data) // 20
        if len(data) - cut <= effort.text_length:
            raise ValueError(
                f"a twentieth of the text is held out, and must be longer than --text-length {effort.text_length}, got "
                f"{len(data) - cut} bytes of {len(data)}: give a longer text or a smaller --text-length"
            )
        return cls(data[:cut], data[cut:])

    def batch(self, effort: Effort, step: int) -> Tensor:
        """Windows at random, int64 [B, n]."""
        starts = generator(effort.seed, "text", step).integers(
            0, len(self.train) - effort.text_length, effort.text_batch
        )
        return _windows(self.train, starts, effort.text_length)

    def tests(self, effort: Effort) -> Tensor:
        """Windows of the held-out part, evenly far from each other, int64 [samples, n]."""
        starts = np.linspace(0, len(self.held_out) - effort.text_length, effort.samples).astype(np.int64)
        return _windows(self.held_out, starts, effort.text_length)


def _windows(data: np.ndarray, starts: np.ndarray, length: int) -> Tensor:
    return torch.from_numpy(np.stack([data[start : start + length] for start in starts]).astype(np.int64))
