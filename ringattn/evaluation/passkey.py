"""Passkey retrieval: a number hidden at some depth of a noise text, asked for at its end.

A. Mohtashami and M. Jaggi, "Landmark Attention: Random-Access Infinite Context Length for Transformers" (2023), section
4.2, with the text of that section.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ringattn.evaluation.samples import NOISE, Case, Haystack, Sample, generator, hide
from ringattn.evaluation.text import Pieces

HEAD = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. I will quiz you about "
    "the important information there.\n"
)
NEEDLE = " The pass key is {key}. Remember it. {key} is the pass key."
QUESTION = "\nWhat is the pass key? The pass key is"


def passkey_cases(pieces: Pieces, lengths: Sequence[int], *, depths: int, seed: int) -> list[Case]:
    """A case for each length and depth; depths are spread evenly from the start to the end."""
    noise = Haystack.of(pieces.many(NOISE))
    places = [0.5] if depths == 1 else [step / (depths - 1) for step in range(depths)]
    return [
        Case(
            task="passkey",
            name=f"{100 * depth:.0f} %",
            place=depth,
            length=length,
            make=partial(_sample, pieces, noise, length, depth, seed),
        )
        for length in lengths
        for depth in places
    ]


def _sample(pieces: Pieces, noise: Haystack, length: int, depth: float, seed: int, number: int) -> Sample:
    key = generator(seed, "passkey", length, round(1e6 * depth), number).integers(10_000, 100_000)
    return hide(
        pieces,
        noise,
        [(depth, NEEDLE.format(key=key))],
        head=HEAD,
        question=QUESTION,
        answers=[str(key)],
        length=length,
        spare=0,
    )
