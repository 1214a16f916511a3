"""Text to token ids on disk, a piece at a time, so that the text may be larger than memory.

The text is read through once before anything is encoded: that finds records that cannot be read before hours are
spent, says how much there is, and where the held-out part begins. A tokenizer for a new model is trained on the
training part alone.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ringattn.data.corpus import TOKENIZER, CorpusWriter, Description
from ringattn.data.progress import Progress, shortened
from ringattn.data.records import BadRecords, Piece
from ringattn.data.sources import Source
from ringattn.data.tokenizer import TextTokenizer, save_tokenizer, train_bpe

BATCH = 1 << 21  # Characters that are encoded at one time.
BATCH_TEXTS = 4096
# A BPE of some ten thousand tokens learns nothing more from more text.
TOKENIZER_CHARACTERS = 1 << 30
LINE = 2000  # Characters before a cut in which a line end is looked for.


@dataclass(frozen=True)
class Tokenized:
    """A corpus that was written, the tokens of it that are for training, and its tokenizer."""

    described: Description
    train_tokens: int
    tokenizer: TextTokenizer


@dataclass(frozen=True)
class Part:
    """Text of one document and one side of the cut. `bound`: a document, or its half, ends with it; `whole`: the
    document does."""

    text: str
    held_out: bool
    bound: bool
    whole: bool


def tokenize(
    source: Source,
    folder: Path,
    *,
    tokenizer: TextTokenizer | None,
    vocabulary: int,
    held_out: float,
    bad: BadRecords,
) -> Tokenized:
    """Write the text of `source` as a corpus into `folder`.

    Args:
        tokenizer: None to train one of at most `vocabulary` tokens on the training part, which is saved in
            `folder/tokenizer`.
        held_out: the fraction at the end that is not training text; 0 for none.
        bad: what happens to records that cannot be read, and their count.

    Raises:
        ValueError: a record cannot be read and `bad` stops, or nothing is left.
    """
    lengths = scan(source, bad)
    bounds = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(np.frombuffer(lengths, dtype=np.int64))])
    characters = int(bounds[-1])
    cut = held_out_cut(bounds, held_out)

    def read() -> Iterator[Part]:
        # What is bad has been told of.
        return parts(source.pieces(BadRecords(skip=True)), bounds, cut)

    if tokenizer is None:
        with Progress("train the tokenizer on", total=None, unit="characters") as progress:
            tokenizer = train_bpe(_training_texts(read(), progress), vocabulary)
        save_tokenizer(tokenizer.tokenizer, folder / TOKENIZER)
    with (
        CorpusWriter(folder, vocabulary=max(tokenizer.vocabulary, tokenizer.end_of_text + 1)) as writer,
        Progress("tokenize", total=characters, unit="characters") as progress,
    ):
        train_tokens = _encode(read(), tokenizer, writer, progress)
        described = writer.finish(end_of_text=tokenizer.end_of_text, tokenizer=tokenizer.digest())
        seconds = progress.elapsed
        print(
            f"tokenized {shortened(characters)} characters, {len(lengths):,} "
            f"document{'s' * (len(lengths) > 1)}: {shortened(described.tokens)} tokens in {seconds:.1f} s",
            file=progress.stream,
            flush=True,
        )
    return Tokenized(described, train_tokens, tokenizer)


def scan(source: Source, bad: BadRecords) -> array[int]:
    """The characters of each document.

    Raises:
        ValueError: there is none.
    """
    lengths = array("q")
    length = 0
    with Progress(f"read {source.place}", total=None, unit="documents") as progress:
        for piece in source.pieces(bad):
            length += len(piece.text)
            if piece.last:
                lengths.append(length)
                length = 0
                progress.add(1)
    if not lengths:
        why = f" ({bad.report()})" if bad.count else ""
        raise ValueError(f"{source.place} has no text to train on{why}: give one that has.")
    return lengths


def held_out_cut(bounds: np.ndarray, fraction: float) -> int:
    """Where the held-out part begins, in the units of `bounds`, int64 [documents + 1].

    It is the last documents, so many that they come nearest to `fraction` of the whole. Where that is off by more than
    half of it, as where the text is one book, the document at the border is cut in two.
    """
    total = int(bounds[-1])
    wanted = total - round(total * fraction)
    after = int(np.searchsorted(bounds, wanted, side="right"))
    near = min((int(bound) for bound in bounds[after - 1 : after + 1]), key=lambda bound: abs(bound - wanted))
    return near if 0 < near < total and abs(near - wanted) <= fraction * total / 2 else wanted


def parts(pieces: Iterable[Piece], bounds: np.ndarray, cut: int) -> Iterator[Part]:
    """The pieces of documents with `bounds` (in characters), told apart at `cut`: near the end of a line where that is
    inside a document."""
    at, number = 0, 0
    for piece in pieces:
        stop = at + len(piece.text)
        inside = int(bounds[number]) < cut and at <= cut < stop
        if inside:
            place = cut - at
            line_end = piece.text.rfind("\n", max(0, place - LINE), place)
            place = line_end + 1 if line_end >= 0 else place
            yield Part(piece.text[:place], held_out=False, bound=True, whole=False)
            yield Part(piece.text[place:], held_out=True, bound=piece.last, whole=piece.last)
        else:
            yield Part(piece.text, held_out=at >= cut, bound=piece.last, whole=piece.last)
        at = stop
        number += piece.last


def _training_texts(read: Iterable[Part], progress: Progress) -> Iterator[str]:
    for part in read:
        if part.held_out or progress.done > TOKENIZER_CHARACTERS:
            return
        progress.add(len(part.text))
        yield part.text


def _encode(read: Iterable[Part], tokenizer: TextTokenizer, writer: CorpusWriter, progress: Progress) -> int:
    """Encode and write all parts; returns how many tokens are for training."""
    train_tokens = 0
    for batch in _batches(read):
        for part, ids in zip(batch, tokenizer.encode([part.text for part in batch])):
            writer.write(ids)
            if part.whole:
                writer.write([tokenizer.end_of_text])
            if part.bound:
                writer.end_document()
            if not part.held_out:
                train_tokens = writer.tokens
        progress.add(sum(len(part.text) for part in batch))
    return train_tokens


def _batches(read: Iterable[Part]) -> Iterator[list[Part]]:
    batch: list[Part] = []
    held = 0
    for part in read:
        batch.append(part)
        held += len(part.text)
        if held >= BATCH or len(batch) >= BATCH_TEXTS:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch
