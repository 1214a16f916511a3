"""A mask shows each query one interval of keys, and says clearly what it does not take."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import sees

from ringattn import Mask


def shown(mask: Mask, queries: int, keys: int) -> list[list[int]]:
    start, stop = mask.intervals(np.arange(queries), queries=queries, keys=keys)
    return [list(range(a, b)) for a, b in zip(start, stop, strict=True)]


def test_causal():
    assert shown(Mask(), 3, 3) == [[0], [0, 1], [0, 1, 2]]


def test_full():
    assert shown(Mask(causal=False), 2, 3) == [[0, 1, 2], [0, 1, 2]]


def test_window_counts_the_query_s_own_key():
    assert shown(Mask(window=2), 4, 4) == [[0], [0, 1], [1, 2], [2, 3]]


def test_window_without_causality_reaches_both_ways():
    assert shown(Mask(causal=False, window=2), 4, 4) == [[0, 1], [0, 1, 2], [1, 2, 3], [2, 3]]


def test_documents_keep_to_themselves():
    assert shown(Mask(documents=(0, 2, 2, 5)), 5, 5) == [[0], [0, 1], [2], [2, 3], [2, 3, 4]]


def test_the_last_query_stands_at_the_last_key():
    assert shown(Mask(), 2, 4) == [[0, 1, 2], [0, 1, 2, 3]]
    assert shown(Mask(), 4, 2) == [[], [], [0], [0, 1]]


def test_documents_with_keys_of_their_own():
    mask = Mask(causal=False, documents=(0, 1, 3), key_documents=(0, 2, 2))
    assert shown(mask, 3, 2) == [[0, 1], [], []]


@st.composite
def masks(draw):
    queries = draw(st.integers(0, 20))
    cuts = sorted(draw(st.lists(st.integers(0, queries), max_size=4)))
    documents = (0, *cuts, queries) if draw(st.booleans()) else None
    keys, key_documents = queries, None
    if draw(st.booleans()):
        keys = draw(st.integers(0, 20))
        if documents:
            key_cuts = sorted(draw(st.lists(st.integers(0, keys), min_size=len(cuts), max_size=len(cuts))))
            key_documents = (0, *key_cuts, keys)
    window = draw(st.one_of(st.none(), st.integers(1, 25)))
    return Mask(draw(st.booleans()), window, documents, key_documents), queries, keys


@given(masks())
def test_intervals_are_the_definition_and_never_move_back(case):
    mask, queries, keys = case
    words = {"causal": mask.causal, "window": mask.window, "documents": mask.documents}
    words["key_documents"] = mask.key_documents
    expected = [[j for j in range(keys) if sees(i, j, queries=queries, keys=keys, **words)] for i in range(queries)]
    assert shown(mask, queries, keys) == expected
    start, stop = mask.intervals(np.arange(queries), queries=queries, keys=keys)
    assert (np.diff(start) >= 0).all() and (np.diff(stop) >= 0).all()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"window": 0}, "window must be at least 1 (a query's own key counts), got 0"),
        ({"documents": (1, 5)}, "it starts with 0 and ends with the length, got [1, 5]"),
        ({"documents": (0,)}, "it starts with 0 and ends with the length, got [0]"),
        ({"documents": (0, 5, 3)}, "never fall or go below 0: 5 is followed by 3"),
        ({"documents": (0, -2, 3)}, "never fall or go below 0: 0 is followed by -2"),
        ({"key_documents": (0, 3)}, "key_documents needs documents"),
        ({"documents": (0, 3), "key_documents": (0, 1, 3)}, "must name as many documents, got 1 and 2"),
    ],
)
def test_what_a_mask_refuses(arguments, text):
    with pytest.raises(ValueError) as error:
        Mask(**arguments)
    assert text in str(error.value)


def test_documents_must_end_with_the_length():
    with pytest.raises(ValueError, match="it ends with 7, but there are 8 queries over all ranks"):
        Mask(documents=(0, 3, 7)).check(8, 8)


def test_a_mask_in_words():
    assert Mask(window=4, documents=(0, 3, 8)).describe() == "causal, window 4, 2 documents [0, 3, 8]"
