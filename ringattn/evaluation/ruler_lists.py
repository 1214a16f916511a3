"""RULER's two tasks of aggregation: which words of a long list come most often?

C.-P. Hsieh et al., "RULER" (2024), section 3 and appendix B. Common words: ten come thirty times, all others three
times. Frequent words: coded words whose numbers fall as 1 / rank ** 2 (a Zeta distribution), the first rank being dots.
The list is as long as fits; what remains of the length to be filled is the beginning of one entry more.
"""

from __future__ import annotations

import numpy as np

from ringattn.evaluation.samples import Sample, finish, listed
from ringattn.evaluation.text import Pieces
from ringattn.evaluation.vocabulary import keys, letters

COMMON_HEAD = (
    "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that "
    "appear most often.\n"
)
COMMON = (
    "\nQuestion: What are the {number} most common words in the above list? Answer: The top {number} words that appear "
    "most often in the list are:"
)
FREQUENT_HEAD = (
    "Read the following coded text and track the frequency of each coded word. Find the three most frequently appeared "
    "coded words."
)
FREQUENT = (
    "\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are the three most frequently "
    "appeared words in the above coded text? Answer: According to the coded text above, the three most frequently "
    "appeared words are:"
)
DOTS = " ...."
ALPHA = 2.0
# How often common and other words come; fewer of both in short lists, where the common ones alone would fill them.
REPEATS = ((30, 3), (20, 2), (10, 1))


def common_words(pieces: Pieces, spare: int, number: int, random: np.random.Generator, length: int) -> Sample:
    """Answers are in the order in which the words first appear."""
    head, end = pieces.first(COMMON_HEAD), pieces(COMMON.format(number=number))
    asked = keys(random, number)
    ids = pieces.many([f" {word}" for word in asked])
    # An entry takes four tokens or more.
    numerals = pieces.many([f" {place}." for place in range(1, length // 4 + 2)])
    tail, _ = listed(pieces, asked)
    budget = length - len(head) - len(end) - len(tail) - spare
    chosen = None
    for often, rarely in REPEATS:
        common = often * sum(map(len, ids)) + sum(map(len, numerals[: often * number]))
        if chosen is None and (2 * common <= budget or ((often, rarely) == REPEATS[-1] and common < budget)):
            chosen = often, rarely
    if chosen is None:
        least = length - budget + common + 1
        raise ValueError(
            f"{number} common words, {REPEATS[-1][0]} times each, take {least} tokens of this model with the question, "
            f"but a sequence has {length}: raise lengths, or lower ruler.common."
        )
    often, rarely = chosen
    others = keys(random, number + max(1, budget // (4 * rarely)))
    words = [*asked, *(word for word in others if word not in asked)]
    ids += pieces.many([f" {word}" for word in words[number:]])
    entries = [place for place in range(number) for _ in range(often)]
    size = sum(len(ids[place]) for place in entries) + sum(map(len, numerals[: len(entries)]))
    for place in range(number, len(words)):
        more = rarely * len(ids[place]) + sum(map(len, numerals[len(entries) : len(entries) + rarely]))
        if size + more > budget:
            break
        entries, size = entries + [place] * rarely, size + more
    order = random.permutation(len(entries))
    written = [entries[place] for place in order]
    parts = [x for numeral, place in zip(numerals, written) for x in (numeral, ids[place])]
    # The beginning of entries more.
    rest = budget - size
    more_parts = [numerals[len(entries)], ids[-1]]
    parts.append(np.resize(np.concatenate(more_parts), rest))
    answers = list(dict.fromkeys(words[place] for place in written if place < number))
    return _finished(pieces, [head, *parts, end], answers, spare, length)


def frequent_words(pieces: Pieces, spare: int, random: np.random.Generator, length: int) -> Sample:
    """Answers are in the order of how often they come."""
    head, end, dots = pieces.first(FREQUENT_HEAD), pieces(FREQUENT), pieces(DOTS)
    words = letters(random, max(8, int(length**0.5)), 6)
    ids = pieces.many([f" {word}" for word in words])
    tail, _ = listed(pieces, words[:3])
    budget = length - len(head) - len(end) - len(tail) - spare
    sizes = np.array([len(dots), *map(len, ids)])
    weights = 1.0 / np.arange(1, len(sizes) + 1) ** ALPHA

    def counts(scale: float) -> np.ndarray:
        return np.floor(scale * weights).astype(int)

    low, high = 0.0, float(max(budget, 1))
    while high - low > 0.5:
        middle = (low + high) / 2
        low, high = (middle, high) if int(counts(middle) @ sizes) <= budget else (low, middle)
    often = counts(low)
    if not often[1] > often[2] > often[3] > often[4]:
        raise ValueError(
            f"the three most frequent words must come in different numbers, but {length} tokens hold too few words: "
            "raise lengths, or choose other tasks."
        )
    entries = np.repeat(np.arange(len(sizes)), often)
    written = [dots if place == 0 else ids[place - 1] for place in random.permutation(entries)]
    rest = np.resize(dots, max(0, budget - int(often @ sizes)))
    return _finished(pieces, [head, *written, rest, end], words[:3], spare, length)


def _finished(pieces: Pieces, parts: list[np.ndarray], answers: list[str], spare: int, length: int) -> Sample:
    """The parts and the answers as a sample."""
    tail, spans = listed(pieces, answers)
    sample = finish(np.concatenate(parts), tail, spans, spare=spare)
    if len(sample.tokens) != length:
        raise AssertionError(f"a sequence was to have {length} tokens and has {len(sample.tokens)}")
    return sample
