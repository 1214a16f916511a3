"""Where landmarks stand, what their mask says and refuses, and layouts that hold blocks whole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringattn import Mask
from ringattn.sequence.landmarks import (
    are_landmarks,
    block_borders,
    block_numbers,
    landmark_positions,
    ordinary_positions,
    with_landmarks,
)
from ringattn.sequence.layout import LAYOUTS, Layout, make_layout


def test_a_landmark_behind_each_full_run():
    # o o o L o o o L o o o L o
    assert with_landmarks(10, None, 3) == (13, None)
    assert landmark_positions(13, None, 3).tolist() == [3, 7, 11]
    assert ordinary_positions(13, None, 3).tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10, 12]


def test_blocks_begin_anew_with_each_document():
    # 0, 3 and 7 ordinary tokens: - | o o o L | o o o L o o o L o
    assert with_landmarks(10, (0, 0, 3, 10), 3) == (13, (0, 0, 4, 13))
    assert landmark_positions(13, (0, 0, 4, 13), 3).tolist() == [3, 7, 11]
    document, number = block_numbers(np.arange(13), 13, (0, 0, 4, 13), 3)
    assert document.tolist() == [1] * 4 + [2] * 9
    assert number.tolist() == [0] * 4 + [0] * 4 + [1] * 4 + [2]
    assert block_borders(13, (0, 0, 4, 13), 3).tolist() == [0, 4, 8, 12, 13]


def test_a_short_document_has_no_landmark():
    assert with_landmarks(2, None, 3) == (2, None)
    assert landmark_positions(2, None, 3).tolist() == []
    assert with_landmarks(0, None, 3) == (0, None) and block_borders(0, None, 3).tolist() == [0]


def test_flags_of_any_positions():
    assert are_landmarks(np.asarray([12, 3, 4]), 13, None, 3).tolist() == [False, True, False]


def test_positions_with_bounds_that_do_not_fit():
    with pytest.raises(ValueError, match=r"from 0 to the length of the sequence, 13; got bounds from 0 to 12"):
        landmark_positions(13, (0, 12), 3)
    with pytest.raises(ValueError, match="at least 1 ordinary token, got landmark_block 0"):
        with_landmarks(13, None, 0)


def test_the_mask_in_words():
    assert Mask(landmark_block=63).describe() == "causal, landmarks behind every 63 tokens"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"landmark_block": 0}, "at least 1, got 0; pass landmark_block=None for attention without landmarks"),
        ({"landmark_block": 2.0}, "landmark_block is a whole number of ordinary tokens, at least 1, got 2.0"),
        ({"landmark_block": True}, "landmark_block is a whole number of ordinary tokens, at least 1, got True"),
        ({"landmark_block": 3, "causal": False}, "got landmark_block 3 with causal=False, leave one of them out"),
        ({"landmark_block": 3, "window": 5}, "got landmark_block 3 with window 5, leave one of them out"),
        (
            {"landmark_block": 3, "documents": (0, 5), "key_documents": (0, 6)},
            "got landmark_block 3 with key_documents, leave one of them out",
        ),
    ],
)
def test_masks_that_landmarks_do_not_go_with(options, text):
    with pytest.raises(ValueError) as error:
        Mask(**options)
    assert text in str(error.value)


def test_cross_attention_has_no_landmarks():
    with pytest.raises(ValueError, match="has as many keys as queries, got 8 queries and 6 keys; leave landmark_block"):
        Mask(landmark_block=3).check(8, 6)


def test_contiguous_and_zigzag_cut_between_blocks():
    # Six blocks of four tokens and one of two: even parts would be cut at 13.
    mask = Mask(landmark_block=3)
    assert make_layout("contiguous", 26, 2, mask).chunks == (range(4), range(4, 12), range(12, 20), range(20, 26))
    assert make_layout("zigzag", 26, 2, mask).chunks == (range(8), range(20, 26), range(8, 12), range(12, 20))


def test_striped_deals_whole_blocks_in_turn():
    layout = make_layout("striped", 64, 2, Mask(landmark_block=3))
    assert layout.of(0) == tuple(range(start, start + 4) for start in range(0, 64, 8))
    assert layout.of(1) == tuple(range(start, start + 4) for start in range(4, 64, 8))


@st.composite
def cases(draw):
    length = draw(st.integers(0, 90))
    cuts = sorted(draw(st.lists(st.integers(0, length), max_size=4)))
    documents = (0, *cuts, length) if draw(st.booleans()) else None
    mask = Mask(documents=documents, landmark_block=draw(st.integers(1, 9)))
    return length, mask, draw(st.sampled_from(LAYOUTS)), draw(st.integers(1, 6)), draw(st.integers(1, 4))


@given(cases())
def test_every_layout_holds_every_block_whole_and_every_token_once(case):
    length, mask, name, world, factor = case
    layout = make_layout(name, length, world, mask)
    document, number = block_numbers(np.arange(length), length, mask.documents, mask.landmark_block)
    for cut in (layout, layout.refine(factor)):
        held = np.sort(np.concatenate([cut.positions(rank) for rank in range(world)]))
        assert held.tolist() == list(range(length))
        home = np.empty(length, dtype=np.int64)
        for index, chunk in enumerate(cut.chunks):
            home[chunk.start : chunk.stop] = index
        blocks = set(zip(document.tolist(), number.tolist(), strict=True))
        assert len(set(zip(document.tolist(), number.tolist(), home.tolist(), strict=True))) == len(blocks)
    assert layout.refine(factor).chunks_per_rank == layout.chunks_per_rank * factor


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_ranks_tokens_differ_by_a_few_blocks(name):
    layout = make_layout(name, 4096, 4, Mask(landmark_block=15))
    tokens = [layout.local_length(rank) for rank in range(4)]
    assert max(tokens) - min(tokens) <= 4 * 16


def test_a_layout_that_cuts_a_block_is_refused():
    plain = make_layout("zigzag", 26, 2)
    with pytest.raises(ValueError, match="a landmark block must lie in one chunk whole, but range\\(0, 7\\) does not"):
        plain.fit(Mask(landmark_block=3).blocks)
    whole = Layout("mine", 26, 1, (range(8), range(8, 26)))
    assert whole.fit(Mask(landmark_block=3).blocks).chunks == whole.chunks
