"""Token ids as sequences: windows of a stream, or pieces of documents, packed or each alone.

A document of m + 1 tokens has m pairs of a token and the next one. A longer document than a sequence is cut into
pieces of L pairs, each beginning L - overlap after the one before; the pairs that a piece shares with the one before
it are read again but not predicted again, so that every pair counts once. The last token of a document is only ever a
target. Packing keeps pieces whole, in the order of the text: a sequence takes as many as fit (next fit; what this loses
against cutting documents is only that sequences are a little shorter).

    pieces.npy      int64 [documents + 1]: how many pieces come before each document
    windows.npy     int64 [sequences + 1]: the first piece of each sequence
    targets.npy      int64 [sequences]: how many of its targets count
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ringattn.data.corpus import Corpus
from ringattn.data.sequence import IGNORE, Sequence

PIECES, WINDOWS, TARGETS = "pieces.npy", "windows.npy", "targets.npy"


@dataclass(frozen=True)
class View:
    """The tokens of a corpus from `start` to `stop`; a document at a border counts as far as it is inside."""

    corpus: Corpus
    start: int
    stop: int

    @property
    def tokens(self) -> np.ndarray:
        return self.corpus.tokens[self.start : self.stop]

    def __len__(self) -> int:
        return self.stop - self.start

    def documents(self) -> range:
        """The numbers of its documents in the corpus."""
        if self.start == self.stop:
            return range(0)
        first = int(np.searchsorted(self.corpus.bounds, self.start, side="right")) - 1
        last = int(np.searchsorted(self.corpus.bounds, self.stop, side="left"))
        return range(first, last)

    def bounds(self) -> np.ndarray:
        """int64 [documents + 1], from 0 to its length."""
        here = self.documents()
        if not here:
            return np.zeros(1, dtype=np.int64)
        bounds = np.array(self.corpus.bounds[here.start : here.stop + 1], dtype=np.int64)
        return np.clip(bounds, self.start, self.stop) - self.start


class Windows(Protocol):
    """All sequences of a text, numbered. `slack`: by how many tokens their borders may be shifted."""

    count: int
    slack: int

    def read(self, number: int, shift: int = 0) -> Sequence:
        """The sequence `number`."""
        ...

    def num_targets(self, number: int) -> int:
        """The targets of it that count."""
        ...


class StreamWindows:
    """Windows of `length` pairs that share no target, over the borders of documents.

    shifting: one window less than fits, so that each epoch may cut the text at other places.
    """

    def __init__(self, view: View, *, length: int, shifting: bool) -> None:
        self._tokens, self.length = view.tokens, length
        fit = (len(view) - 1) // length
        self.count = max(1, fit - 1) if shifting and fit else fit
        self.slack = len(view) - 1 - self.count * length if shifting and fit else 0

    def read(self, number: int, shift: int = 0) -> Sequence:
        start = shift + number * self.length
        window = np.asarray(self._tokens[start : start + self.length + 1], dtype=np.int64)[None]
        return Sequence(inputs=window[:, :-1], targets=window[:, 1:])

    def num_targets(self, number: int) -> int:
        return self.length


class DocumentWindows:
    """Pieces of documents, packed or alone, by the index that `write_index` wrote."""

    slack = 0

    def __init__(self, view: View, folder: Path, *, length: int, overlap: int) -> None:
        self._corpus, self._view = view.corpus, view
        self._first = view.documents().start
        self._pieces, self._windows, self._targets = (
            np.load(folder / name, mmap_mode="r") for name in (PIECES, WINDOWS, TARGETS)
        )
        self.length, self.overlap = length, overlap
        self.count = len(self._windows) - 1

    def read(self, number: int, shift: int = 0) -> Sequence:
        starts, lengths, again = self._pairs(number)
        inputs = np.concatenate([self._corpus.tokens[a : a + n] for a, n in zip(starts, lengths)])
        targets = np.concatenate([self._corpus.tokens[a + 1 : a + n + 1] for a, n in zip(starts, lengths)])
        targets = targets.astype(np.int64)
        bounds = np.concatenate([[0], np.cumsum(lengths)])
        for bound, repeated in zip(bounds, again):
            targets[bound : bound + repeated] = IGNORE
        return Sequence(
            inputs=inputs.astype(np.int64)[None],
            targets=targets[None],
            documents=tuple(int(bound) for bound in bounds) if len(lengths) > 1 else None,
        )

    def num_targets(self, number: int) -> int:
        return int(self._targets[number])

    def _pairs(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each piece: its first token in the corpus, its pairs, and how many of them the piece before has."""
        pieces = np.arange(self._windows[number], self._windows[number + 1])
        documents = np.searchsorted(self._pieces, pieces, side="right") - 1
        places = pieces - self._pieces[documents]
        documents += self._first
        starts = np.maximum(self._corpus.bounds[documents], self._view.start)
        stops = np.minimum(self._corpus.bounds[documents + 1], self._view.stop)
        before = places * (self.length - self.overlap)
        lengths = np.minimum(self.length, stops - starts - 1 - before)
        return starts + before, lengths, np.where(places > 0, self.overlap, 0)


def write_index(view: View, folder: Path, *, length: int, overlap: int, packed: bool) -> None:
    """Number the pieces and the sequences of a text, for `DocumentWindows`."""
    pairs = np.maximum(np.diff(view.bounds()) - 1, 0)
    stride = length - overlap
    number = np.where(pairs > length, 1 + -(-(pairs - length) // stride), (pairs > 0).astype(np.int64))
    pieces = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(number)])
    some = pairs > 0
    first, last = pieces[:-1][some], pieces[1:][some] - 1
    lengths = np.full(int(pieces[-1]), length, dtype=np.int64)
    lengths[last] = pairs[some] - (last - first) * stride
    predicted = lengths - overlap
    predicted[first] += overlap
    windows = _next_fit(lengths, length) if packed else np.arange(len(lengths) + 1, dtype=np.int64)
    before = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(predicted)])
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / PIECES, pieces)
    np.save(folder / WINDOWS, windows)
    np.save(folder / TARGETS, np.diff(before[windows]))


def _next_fit(lengths: np.ndarray, most: int) -> np.ndarray:
    """The first piece of each sequence, and the number of all pieces."""
    ends = np.cumsum(lengths)
    windows, place, full = [0], 0, 0
    while place < len(ends):
        # As many pieces as end within `most` pairs of this sequence's beginning: at least one.
        place = int(np.searchsorted(ends, full + most, side="right"))
        full = int(ends[place - 1])
        windows.append(place)
    return np.array(windows, dtype=np.int64)
