"""RULER-style tasks: needles of several kinds, variable tracking, common and frequent words.

C.-P. Hsieh et al., "RULER: What's the Real Context Size of Your Long-Context Language Models?" (2024), section 3 and
appendix B: what is hidden, what is asked and how the answer begins follow the paper; keys, hay and lists of words are
generated here. Lists begin behind a colon, which models like to write before them. Lists of words are in
`ringattn.evaluation.ruler_lists`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from ringattn.data.sources import check_plain
from ringattn.data.text import read_whole
from ringattn.evaluation.ruler_lists import common_words, frequent_words
from ringattn.evaluation.samples import NOISE, Case, Haystack, Sample, generator, hide
from ringattn.evaluation.text import Pieces
from ringattn.evaluation.vocabulary import keys, letters, numbers
from ringattn.settings.evaluation import RULER_TASKS, RulerConfig

HEAD = (
    "Some special magic numbers are hidden within the following text. Make sure to memorize them. I will quiz you "
    "about the numbers afterwards.\n"
)
NEEDLE = " One of the special magic numbers for {key} is: {value}."
ONE = (
    "\nWhat is the special magic number for {keys} mentioned in the provided text? The special magic number for {keys} "
    "mentioned in the provided text is"
)
SEVERAL = (
    "\nWhat are all the special magic numbers for {keys} mentioned in the provided text? The special magic numbers for "
    "{keys} mentioned in the provided text are:"
)
TRACK_HEAD = "Memorize and track the chain of variable assignments hidden in the following text.\n"
TRACK = (
    "\nQuestion: Find all variables that are assigned the value {value} in the text above. Answer: According to the "
    "chain of variable assignments in the text above, {number} variables are assigned the value {value}, they are:"
)
DIGITS = 7
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


def ruler_cases(
    pieces: Pieces, names: Sequence[str], lengths: Sequence[int], *, ruler: RulerConfig, seed: int, spare: int
) -> list[Case]:
    """A case for each task and length. spare: tokens left behind the answers, for greedy decoding.

    Raises:
        ValueError: the haystack's file is missing or empty.
    """
    hay = haystack(pieces, ruler.haystack, longest=max(lengths), seed=seed)
    makers = _makers(pieces, hay, ruler, spare)
    return [
        Case(
            task="ruler",
            name=name,
            place=RULER_TASKS.index(name),
            length=length,
            make=partial(_made, makers[name], seed, name, length),
        )
        for length in lengths
        for name in names
    ]


def haystack(pieces: Pieces, kind: str, *, longest: int, seed: int) -> Haystack:
    """Noise sentences, sentences of random words, or those of a text file, up to `longest` tokens of them."""
    if kind == "noise":
        return Haystack.of(pieces.many(NOISE))
    if kind == "words":
        random = generator(seed, "words")
        # No sentence has fewer than eight tokens.
        made = [" " + " ".join(keys(random, 8)).replace("-", " ").capitalize() + "." for _ in range(longest // 8 + 1)]
        return Haystack.of(pieces.many(made))
    path = Path(kind).expanduser()
    if not path.suffix and not path.exists():
        raise ValueError(f"ruler.haystack is noise, words or a text file, got {kind!r}: give the path of a file.")
    check_plain(path, "ruler.haystack")
    # A token is rarely longer than eight characters.
    text = read_whole(path, setting="ruler.haystack")[: 8 * longest + 10_000]
    return Haystack.of(pieces.many([f" {sentence}" for sentence in _SENTENCE.split(text) if sentence.strip()]))


def _made(make: Callable[[np.random.Generator, int], Sample], seed: int, name: str, length: int, number: int) -> Sample:
    return make(generator(seed, "ruler", name, length, number), length)


def _makers(
    pieces: Pieces, hay: Haystack, ruler: RulerConfig, spare: int
) -> dict[str, Callable[[np.random.Generator, int], Sample]]:
    several = ruler.needles
    needles = partial(_needles, pieces, hay, spare)
    return {
        "single": partial(needles, 1, 1, 1),
        "multikey": partial(needles, several, 1, 1),
        "multivalue": partial(needles, 1, several, 1),
        "multiquery": partial(needles, several, 1, several),
        "variables": partial(_variables, pieces, hay, spare, ruler.hops),
        "common": partial(common_words, pieces, spare, ruler.common),
        "frequent": partial(frequent_words, pieces, spare),
    }


def _needles(
    pieces: Pieces,
    hay: Haystack,
    spare: int,
    num_keys: int,
    num_values: int,
    num_queries: int,
    random: np.random.Generator,
    length: int,
) -> Sample:
    """Numbers for keys; some keys are asked for. Answers are in the order of the text, or of the keys asked for."""
    names = keys(random, num_keys)
    values = numbers(random, num_keys * num_values, DIGITS)
    hidden = [(name, value) for place, name in enumerate(names) for value in values[place::num_keys]]
    order = random.permutation(len(hidden))
    depths = np.sort(random.random(len(hidden)))
    told = [hidden[place] for place in order]
    asked = [names[place] for place in random.permutation(num_keys)[:num_queries]]
    answers = [value for name in asked for key, value in told if key == name]
    question = ONE if len(answers) == 1 else SEVERAL
    return hide(
        pieces,
        hay,
        [(float(depth), NEEDLE.format(key=key, value=value)) for depth, (key, value) in zip(depths, told)],
        head=HEAD if len(hidden) > 1 else HEAD.replace("numbers are", "number is").replace("them", "it"),
        question=question.format(keys=_joined(asked)),
        answers=answers,
        length=length,
        spare=spare,
    )


def _variables(
    pieces: Pieces, hay: Haystack, spare: int, hops: int, random: np.random.Generator, length: int
) -> Sample:
    """A chain of assignments: the first gives a variable a number, each further one another variable the last one's."""
    names = [name.upper() for name in letters(random, hops + 1, 5)]
    (value,) = numbers(random, 1, 5)
    chain = [f" VAR {names[0]} = {value}."]
    chain += [f" VAR {later} = VAR {earlier}." for earlier, later in pairwise(names)]
    depths = np.sort(random.random(len(chain)))
    return hide(
        pieces,
        hay,
        [(float(depth), statement) for depth, statement in zip(depths, chain)],
        head=TRACK_HEAD,
        question=TRACK.format(value=value, number=len(names)),
        answers=names,
        length=length,
        spare=spare,
    )


def _joined(words: Sequence[str]) -> str:
    if len(words) < 3:
        return " and ".join(words)
    return f"{', '.join(words[:-1])}, and {words[-1]}"
