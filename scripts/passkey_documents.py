"""Documents to fine-tune retrieval on: book passages, also interleaved, and pass keys hidden in passages and in noise.

    python scripts/passkey_documents.py OUT.jsonl --documents 4000 --characters 900:2800
    python scripts/passkey_documents.py OUT.jsonl --leave-out Genesis --leave-out Exodus --kinds 1,3,1,1

--kinds are the shares of four kinds of documents: passages of the text as they are; two to four passages cut in pieces
and interleaved, so that a piece goes on with what stands some blocks before it, and what is between says nothing of it
(distractors, as S. Tworkowski et al., "Focused Transformer", arXiv 2307.03170, train against); a pass key hidden in a
passage and asked for at its end; and the same in the noise of the passkey task (A. Mohtashami and M. Jaggi, "Landmark
Attention", section 4.2), at a depth drawn evenly. One JSON object a line, `{"text": ...}`; the same seed makes the same
file.
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

_KINDS = ("passage", "interleaved passages", "passage with a key", "noise with a key")

# Of a piece of a passage that is interleaved with others: a block or two of tokens.
_PIECE = (40, 120)


def main() -> None:
    options = _options()
    text = Path(options.text).read_text(encoding="utf-8") if options.text else king_james()
    for book in [book_of(text, name) for name in options.leave_out]:
        text = text.replace(book, "")
    least, most = options.characters
    draw = np.random.default_rng(options.seed)
    if len(text) <= most:
        raise SystemExit(f"a passage has up to {most} characters, but the text has {len(text)}: give a longer text")
    with Path(options.out).open("w", encoding="utf-8") as file:
        for _ in range(options.documents):
            kind = _KINDS[int(draw.choice(len(_KINDS), p=np.array(options.kinds) / sum(options.kinds)))]
            file.write(json.dumps({"text": document(draw, kind, text, int(draw.integers(least, most + 1)))}) + "\n")
    print(f"wrote {options.documents} documents into {options.out}")


def document(draw: np.random.Generator, kind: str, text: str, size: int) -> str:
    """A document of about `size` characters."""
    if kind == "passage":
        return passage(draw, text, size)
    if kind == "interleaved passages":
        return interleaved(draw, text, size)
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


def interleaved(draw: np.random.Generator, text: str, size: int) -> str:
    """Two to four passages of about `size` characters in all, cut in pieces, which stand in their order."""
    number = int(draw.integers(2, 5))
    words = [passage(draw, text, size // number).split() for _ in range(number)]
    pieces = []
    while any(words):
        # The longer what is left, the sooner it goes on: passages end together.
        left = np.array([len(w) for w in words])
        chosen = int(draw.choice(number, p=left / left.sum()))
        length = int(draw.integers(*_PIECE))
        pieces.append(" ".join(words[chosen][:length]))
        words[chosen] = words[chosen][length:]
    return "\n\n".join(pieces)


def _options() -> argparse.Namespace:
    def span(words: str) -> tuple[int, int]:
        least, _, most = words.partition(":")
        if not 200 <= int(least) <= int(most):
            raise argparse.ArgumentTypeError(f"two numbers from 200 on, the smaller first, got {words}")
        return int(least), int(most)

    def shares(words: str) -> tuple[int, ...]:
        found = tuple(int(word) for word in words.split(","))
        if len(found) != len(_KINDS) or min(found) < 0 or not sum(found):
            raise argparse.ArgumentTypeError(f"{len(_KINDS)} shares, not all of them 0, got {words}")
        return found

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--documents", type=int, default=4000)
    parser.add_argument("--characters", type=span, default=(900, 2800), metavar="LEAST:MOST", help="of a document")
    parser.add_argument(
        "--kinds", type=shares, default=(1, 0, 2, 2), metavar="1,0,2,2", help="shares of the four kinds of documents"
    )
    parser.add_argument("--text", help="a text file; the King James Bible unless given")
    parser.add_argument(
        "--leave-out",
        action="append",
        default=[],
        metavar="BOOK",
        help="of the Bible, to be read by the evaluation alone; may be given again",
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
