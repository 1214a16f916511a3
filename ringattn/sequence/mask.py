"""Which keys a query sees, as one interval a query.

Every mask that ringattn knows (causal, full, sliding window, packed documents and their combinations, with
key lengths of their own) shows a query one interval `[start, stop)` of key positions, and neither bound ever
moves back from one query to the next. Layouts, the pruning of schedules, kernels and memory estimates all read
a mask through that one fact, so a further mask with the property needs no change in any of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ringattn.sequence.landmarks import Blocks, Ints


@dataclass(frozen=True)
class Mask:
    """The mask of one attention call over a whole (global) sequence.

    causal: a query sees no key behind its own position. Where queries and keys differ in length, the last query
        stands at the last key (bottom-right alignment, as in flash-attn from 2.1 on).
    window: how many keys a query sees at most, its own included, as transformers counts. Without `causal`,
        a query sees the keys at a distance below `window` on both sides.
    documents: cumulative lengths of packed documents, from 0 to the number of queries (flash-attn's
        `cu_seqlens`); a query sees its own document only, and causality and the window hold inside it.
    key_documents: the same for the keys, where they differ (cross attention); as many entries as `documents`.
    landmark_block: ordinary tokens of a block of landmark attention (`ringattn.sequence.landmarks`); lengths and
        documents are then those of the sequence with landmarks. The intervals stay those of causal attention: which
        of their keys a query reads, and how, is the kernels' business.
    """

    causal: bool = True
    window: int | None = None
    documents: tuple[int, ...] | None = None
    key_documents: tuple[int, ...] | None = None
    landmark_block: int | None = None

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise ValueError(
                f"window must be at least 1 (a query's own key counts), got {self.window}; "
                "pass window=None to see every key"
            )
        for name in ("documents", "key_documents"):
            bounds = getattr(self, name)
            if bounds is not None:
                object.__setattr__(self, name, _checked_bounds(name, bounds))
        if self.key_documents is not None:
            if self.documents is None:
                raise ValueError("key_documents needs documents: each document has its queries and its keys")
            if len(self.key_documents) != len(self.documents):
                raise ValueError(
                    "documents and key_documents must name as many documents, got "
                    f"{len(self.documents) - 1} and {len(self.key_documents) - 1}"
                )
        if self.landmark_block is not None:
            self._check_landmarks(self.landmark_block)

    @property
    def blocks(self) -> Blocks | None:
        """The landmark blocks, which no border of a layout's chunks may cut; None without landmarks."""
        return None if self.landmark_block is None else Blocks(self.landmark_block, self.documents)

    def check(self, queries: int, keys: int) -> None:
        """Raise ValueError where this mask does not fit `queries` query and `keys` key positions."""
        if self.landmark_block is not None and queries != keys:
            raise ValueError(
                "landmark attention is a sequence's attention to itself: it has as many keys as queries, got "
                f"{queries} queries and {keys} keys; leave landmark_block out for cross attention"
            )
        if self.documents is None:
            return
        _check_total("documents", self.documents, queries, "queries")
        _check_total("key_documents" if self.key_documents else "documents", self._key_bounds(), keys, "keys")

    def intervals(self, positions: Ints, *, queries: int, keys: int) -> tuple[Ints, Ints]:
        """The keys that the queries at `positions` (ascending) see.

        Returns (start, stop), int64 arrays like `positions`: query i sees the key positions
        `start[i] <= j < stop[i]`; start equals stop where it sees none.
        """
        if self.documents is None:
            query_stop: Ints | int = queries
            key_start: Ints | int = 0
            key_stop: Ints | int = keys
        else:
            bounds = np.asarray(self.documents, dtype=np.int64)
            key_bounds = np.asarray(self._key_bounds(), dtype=np.int64)
            document = np.searchsorted(bounds, positions, side="right") - 1
            query_stop = bounds[document + 1]
            key_start, key_stop = key_bounds[document], key_bounds[document + 1]
        diagonal = positions + (key_stop - query_stop)
        start = np.broadcast_to(np.asarray(key_start, dtype=np.int64), positions.shape)
        stop = np.broadcast_to(np.asarray(key_stop, dtype=np.int64), positions.shape)
        if self.causal:
            stop = np.minimum(stop, diagonal + 1)
        if self.window is not None:
            start = np.maximum(start, diagonal - self.window + 1)
            if not self.causal:
                stop = np.minimum(stop, diagonal + self.window)
        return start, np.maximum(start, stop)

    def describe(self) -> str:
        """One line for a person: `causal, window 1024, 3 documents`."""
        words = ["causal" if self.causal else "full"]
        if self.window is not None:
            words.append(f"window {self.window}")
        if self.documents is not None:
            words.append(f"{len(self.documents) - 1} documents {_shortened(self.documents)}")
        if self.key_documents is not None:
            words.append(f"key documents {_shortened(self.key_documents)}")
        if self.landmark_block is not None:
            words.append(f"landmarks behind every {self.landmark_block} tokens")
        return ", ".join(words)

    def _check_landmarks(self, block: int) -> None:
        if isinstance(block, bool) or not isinstance(block, int) or block < 1:
            raise ValueError(
                f"landmark_block is a whole number of ordinary tokens, at least 1, got {block!r}; "
                "pass landmark_block=None for attention without landmarks"
            )
        refused = {
            "causal=False": not self.causal,
            f"window {self.window}": self.window is not None,
            "key_documents": self.key_documents is not None,
        }
        for what, given in refused.items():
            if given:
                raise ValueError(
                    "landmark attention is causal, over one sequence and without a window: its landmarks choose what "
                    f"is far away; got landmark_block {block} with {what}, leave one of them out"
                )

    def _key_bounds(self) -> tuple[int, ...]:
        return self.key_documents or self.documents or ()


def _checked_bounds(name: str, bounds: Iterable[int]) -> tuple[int, ...]:
    values = tuple(int(bound) for bound in bounds)
    if len(values) < 2 or values[0] != 0:
        raise ValueError(
            f"{name} holds cumulative lengths: it starts with 0 and ends with the length, got {_shortened(values)}"
        )
    for before, after in itertools.pairwise(values):
        if after < before:
            raise ValueError(
                f"{name} holds cumulative lengths, which never fall or go below 0: {before} is followed by {after}; "
                "pass running sums of the documents' lengths"
            )
    return values


def _check_total(name: str, bounds: tuple[int, ...], length: int, what: str) -> None:
    if bounds[-1] != length:
        raise ValueError(
            f"{name} must end with the length of the sequence: it ends with {bounds[-1]}, "
            f"but there are {length} {what} over all ranks"
        )


def _shortened(values: tuple[int, ...]) -> str:
    if len(values) <= 6:
        return str(list(values))
    return f"[{values[0]}, {values[1]}, ..., {values[-2]}, {values[-1]}]"
