"""Documents to fine-tune retrieval on: book passages, and pass keys hidden in passages and in the paper's noise.

    python scripts/passkey_documents.py OUT.jsonl --documents 4000 --characters 900:2800
    python scripts/passkey_documents.py OUT.jsonl --leave-out Genesis --text my-book.txt

A fifth of the documents are passages of the text as they are, two fifths have a pass key hidden in a passage and asked
for at their end, two fifths in the noise of the passkey task (A. Mohtashami and M. Jaggi, "Landmark Attention", section
4.2), at a depth drawn evenly. One JSON object a line, `{"text": ...}`; the same seed makes the same file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from ringattn.data.text import king_james
from ringattn.evaluation.passkey import HEAD, NEEDLE, QUESTION
from ringattn.evaluation.samples import NOISE
from ringattn.evaluation.text import book_of

_MAKERS = ("passage", *("passage with a key",) * 2, *("noise with a key",) * 2)


def main() -> None:
    options = _options()
    text = Path(options.text).read_text(encoding="utf-8") if options.text else king_james()
    if options.leave_out:
        text = text.replace(book_of(text, options.leave_out), "")
    least, most = options.characters
    draw = np.random.default_rng(options.seed)
    if len(text) <= most:
        raise SystemExit(f"a passage has up to {most} characters, but the text has {len(text)}: give a longer text")
    with Path(options.out).open("w", encoding="utf-8") as file:
        for _ in range(options.documents):
            kind = _MAKERS[int(draw.integers(len(_MAKERS)))]
            file.write(json.dumps({"text": document(draw, kind, text, int(draw.integers(least, most + 1)))}) + "\n")
    print(f"wrote {options.documents} documents into {options.out}")


def document(draw: np.random.Generator, kind: str, text: str, size: int) -> str:
    """A document of about `size` characters."""
    if kind == "passage":
        return passage(draw, text, size)
    key = int(draw.integers(10_000, 100_000))
    question = f"{QUESTION} {key}."
    room = max(0, size - len(HEAD) - len(NEEDLE) - len(question))
    if kind == "noise with a key":
        sentences = [*NOISE] * (room // sum(map(len, NOISE)) + 1)
    else:
        sentences = [f" {word}" for word in passage(draw, text, room).split()]
    place = int(draw.integers(len(sentences) + 1))
    hidden = [*sentences[:place], NEEDLE.format(key=key), *sentences[place:]]
    return HEAD + "".join(hidden) + question


def passage(draw: np.random.Generator, text: str, size: int) -> str:
    """A stretch of the text that starts at a word."""
    start = int(draw.integers(len(text) - size))
    start = text.find(" ", start, start + 100) + 1 or start
    return text[start : start + size]


def _options() -> argparse.Namespace:
    def span(words: str) -> tuple[int, int]:
        least, _, most = words.partition(":")
        if not 200 <= int(least) <= int(most):
            raise argparse.ArgumentTypeError(f"two numbers from 200 on, the smaller first, got {words}")
        return int(least), int(most)

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--documents", type=int, default=4000)
    parser.add_argument("--characters", type=span, default=(900, 2800), metavar="LEAST:MOST", help="of a document")
    parser.add_argument("--text", help="a text file; the King James Bible unless given")
    parser.add_argument("--leave-out", metavar="BOOK", help="of the Bible, to be read by the evaluation alone")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
