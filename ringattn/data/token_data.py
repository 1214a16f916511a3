"""The sequences of a run, in an order that is a function of (seed, index) alone.

Restarts, the number of ranks and how they share a step change nothing: the sequence number i of a run is the same
everywhere. Each epoch reads every window once, in a shuffle of its own; a stream is cut at other places too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ringattn.data.corpus import Corpus, Description, open_corpus
from ringattn.data.order import Permutation, mix
from ringattn.data.sequence import Sequence
from ringattn.data.windows import DocumentWindows, StreamWindows, View, Windows

DATA_FILE = "data.json"
ORDER = "feistel-1"  # Another name wherever another order would come out.
# Token pairs that are read to count a bigram model: what it needs of memory is bounded by this.
SAMPLE = 1 << 24


class TokenData:
    """Training and held-out sequences of `length` tokens at most.

    Opened with `open_data`; `TokenData.of_tokens` makes one of tokens in memory.
    """

    def __init__(
        self, train: View, held_out: View, *, windows: tuple[Windows, Windows], seed: int, identity: dict[str, Any]
    ) -> None:
        self._train, self._held_out = train, held_out
        self._windows, self._held_out_windows = windows
        self.seed = seed
        self._identity = identity
        self._epoch: tuple[int, Permutation, int] | None = None

    @classmethod
    def of_tokens(cls, tokens: np.ndarray, *, seed: int, length: int) -> TokenData:
        """One stream of tokens in memory, int [n], n above `length`; the same text is the held-out one."""
        bounds = np.array([0, len(tokens)], dtype=np.int64)
        described = Description(
            tokens_file="",
            dtype=str(tokens.dtype),
            offset=0,
            tokens=len(tokens),
            documents_file="",
            documents=1,
            largest=int(tokens.max(initial=0)),
            end_of_text=None,
            digest="",
            tokenizer=None,
        )
        view = View(Corpus(described, tokens, bounds), 0, len(tokens))
        windows = (
            StreamWindows(view, length=length, shifting=True),
            StreamWindows(view, length=length, shifting=False),
        )
        return cls(view, view, windows=windows, seed=seed, identity={})

    @property
    def train_tokens(self) -> int:
        """Tokens that are trained on."""
        return len(self._train)

    @property
    def sequences(self) -> int:
        """Sequences in an epoch."""
        return self._windows.count

    def sequence(self, index: int) -> Sequence:
        """The `index`-th training sequence of the run."""
        number, shift = self._place(index)
        return self._windows.read(number, shift)

    def num_targets(self, index: int) -> int:
        """The targets of `sequence(index)` that count, without reading it."""
        return self._windows.num_targets(self._place(index)[0])

    def held_out(self, number: int) -> list[Sequence]:
        """At most `number` held-out sequences that share no target, spread over the held-out text."""
        windows = self._held_out_windows
        chosen = np.unique(np.linspace(0, windows.count - 1, min(windows.count, number)).round().astype(int))
        return [windows.read(int(window)) for window in chosen]

    def sample(self) -> np.ndarray:
        """The first training tokens, uint [n], at most 2^24: to count a simple model of the text on."""
        return self._train.tokens[:SAMPLE]

    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for another run to read the same tokens in the same order."""
        return {**self._identity, "seed": self.seed, "order": ORDER}

    def _place(self, index: int) -> tuple[int, int]:
        """(window, shift) of a sequence of the run."""
        epoch, place = divmod(index, self._windows.count)
        if self._epoch is None or self._epoch[0] != epoch:
            shift = mix(mix(self.seed) ^ mix(~epoch)) % (self._windows.slack + 1)
            self._epoch = (epoch, Permutation(self._windows.count, (self.seed, epoch)), shift)
        return self._epoch[1][place], self._epoch[2]


def open_data(folder: Path, *, seed: int, length: int) -> TokenData:
    """What `ringattn.data.prepare` left in a run folder's `data/`, memory-mapped.

    Args:
        seed: of the order.
        length: tokens of a sequence, at most.

    Raises:
        ValueError: files are missing, cut off or other ones than those that were prepared, or `length` is another.
    """
    try:
        summary = json.loads((folder / DATA_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"a run reads its tokens from its folder, but {folder / DATA_FILE} is not there on this host: put "
            "run.folder on a file system that every host sees."
        ) from None
    packing, overlap = summary["packing"], summary["overlap"]
    if length != summary["sequence_length"] and packing != "stream":
        raise ValueError(
            f"documents were cut for trainer.sequence_length={summary['sequence_length']}, got {length}: use the same "
            "length, or prepare the data in a new run folder."
        )
    views: dict[str, View] = {}
    made: dict[str, Windows] = {}
    for side in ("train", "held_out"):
        named = summary[side]
        corpus = open_corpus(folder / named["corpus"])
        if corpus.described.digest != named["digest"]:
            raise ValueError(
                f"{folder / named['corpus']} holds other tokens than this run was prepared with (digest "
                f"{named['digest'][:12]}, found {corpus.described.digest[:12]}): put them back, or start a new run."
            )
        view = View(corpus, named["start"], named["stop"])
        views[side] = view
        if packing == "stream":
            made[side] = StreamWindows(view, length=length, shifting=side == "train")
        else:
            made[side] = DocumentWindows(view, folder / f"{side}_index", length=length, overlap=overlap)
    identity: dict[str, Any] = {
        side: {name: summary[side][name] for name in ("digest", "start", "stop")} for side in ("train", "held_out")
    }
    identity |= {"packing": packing, "overlap": overlap, "sequence_length": length}
    return TokenData(
        views["train"], views["held_out"], windows=(made["train"], made["held_out"]), seed=seed, identity=identity
    )
