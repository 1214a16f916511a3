"""Text as a model's tokens: a whole book for perplexity, pieces for tasks that are put together.

A task's sequence has an exact number of tokens, so that it is assembled from pieces that are encoded by themselves.
Each piece but the first starts with a space or a line break, where tokenizers cut anyway.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ringattn.data.sources import check_plain
from ringattn.data.text import king_james, read_whole
from ringattn.data.tokenizer import read_tokenizer
from ringattn.settings.evaluation import TextConfig
from ringattn.settings.typed import suggest

# Behind this a piece is in the middle of a text: some tokenizers mark the start of one.
_BEFORE = "a"

_TITLE = re.compile(r"(?m)^([^a-z\n]+)\n\nChapter 1\n")


class Pieces:
    """A model's tokenizer for texts in pieces. folder: of the checkpoint.

    Raises:
        ValueError: there is no fast tokenizer, or it does not cut at spaces.
    """

    def __init__(self, folder: Path) -> None:
        self._tokenizer = read_tokenizer(folder)
        self._anchor = self._tokenizer.encode(_BEFORE, add_special_tokens=False).ids
        with_special = self._tokenizer.encode(_BEFORE).ids
        place = next((i for i in range(len(with_special)) if with_special[i : i + 1] == self._anchor[:1]), 0)
        # What the tokenizer puts before a text by itself: a token for its beginning, mostly, or nothing.
        self.start = np.array(with_special[:place], dtype=np.int64)

    def first(self, text: str) -> np.ndarray:
        """The beginning of a sequence, int64 [n], with what the tokenizer puts there."""
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return np.concatenate([self.start, np.array(ids, dtype=np.int64)])

    def __call__(self, text: str) -> np.ndarray:
        """A piece that starts with a space or a line break, int64 [n]."""
        return self.many([text])[0]

    def many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Several at a time, which is quicker."""
        found = self._tokenizer.encode_batch([_BEFORE + text for text in texts], add_special_tokens=False)
        size = len(self._anchor)
        for text, one in zip(texts, found):
            if one.ids[:size] != self._anchor:
                raise ValueError(
                    "a task is put together from pieces, so the model's tokenizer must cut text at spaces, but it "
                    f"joins {_BEFORE!r} and {text[:20]!r} into one token: this task can't be asked of this model."
                )
        return [np.array(one.ids[size:], dtype=np.int64) for one in found]

    def answer(self, text: str) -> np.ndarray:
        """The tokens that a model must write, int64 [n].

        Raises:
            ValueError: there are none, or the text does not come back from them.
        """
        ids = self(text)
        back = self.text(ids)
        if "".join(back.split()) != "".join(text.split()):
            raise ValueError(
                f"a model can only be asked for what its tokenizer can write, but {text.strip()!r} becomes "
                f"{len(ids)} tokens that read {back.strip()!r}: use a model with a tokenizer of letters and digits, or "
                "tasks=recall, which needs none."
            )
        return ids

    def text(self, tokens: np.ndarray | Sequence[int]) -> str:
        """Tokens as text."""
        decoded: str = self._tokenizer.decode([int(token) for token in tokens], skip_special_tokens=False)
        return decoded

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        size: int = self._tokenizer.get_vocab_size()
        return size

    @property
    def special(self) -> set[int]:
        """Tokens that are no text."""
        return {number for number, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}


def read_tokens(data: TextConfig, folder: Path) -> tuple[np.ndarray, np.ndarray, str]:
    """(the token ids of the text, int64 [n]; what the tokenizer puts before a text, int64; what the text is called).

    Raises:
        ValueError: the text or the tokenizer is missing, the text is none, or there is no such book.
    """
    if data.path is not None:
        path = Path(data.path).expanduser()
        check_plain(path, "data.path")
        text, name = read_whole(path), data.path
    else:
        text, name = king_james(), "the King James Bible"
        if data.book is not None:
            text, name = book_of(text, data.book), f"{data.book}, King James Bible"
    ids = read_tokenizer(folder).encode(text, add_special_tokens=False).ids
    return np.array(ids, dtype=np.int64), Pieces(folder).start, name


def book_of(text: str, name: str) -> str:
    """One book of the King James Bible, with its headings. ValueError where there is none of that name."""
    starts = [(match[1].strip(), match.start()) for match in _TITLE.finditer(text)]
    books = {title: text[start:stop] for (title, start), (_, stop) in zip(starts, [*starts[1:], ("", len(text))])}
    if name.strip().upper() not in books:
        hint = suggest(name.strip().upper(), books)
        raise ValueError(f"the King James Bible has no book {name!r}.{hint} It has {', '.join(books)}.")
    return books[name.strip().upper()]
