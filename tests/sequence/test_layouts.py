"""Layouts: which rank holds which token, for any length and any number of ranks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import sees

from ringattn import Mask
from ringattn.sequence.blocks import visible_blocks
from ringattn.sequence.layout import LAYOUTS, Layout, make_layout, split


def held(name: str, length: int, world: int) -> list[list[int]]:
    layout = make_layout(name, length, world)
    return [layout.positions(rank).tolist() for rank in range(world)]


def test_contiguous():
    assert held("contiguous", 10, 4) == [[0, 1, 2], [3, 4, 5], [6, 7], [8, 9]]


def test_zigzag():
    assert held("zigzag", 8, 2) == [[0, 1, 6, 7], [2, 3, 4, 5]]


def test_striped():
    assert held("striped", 7, 3) == [[0, 3, 6], [1, 4], [2, 5]]


def test_fewer_tokens_than_ranks_leaves_ranks_with_nothing():
    assert held("contiguous", 2, 3) == [[0], [1], []]
    assert held("striped", 2, 3) == [[0], [1], []]


@given(st.sampled_from(LAYOUTS), st.integers(0, 60), st.integers(1, 9))
def test_every_token_has_one_owner_and_local_order_is_that_of_positions(name, length, world):
    layout = make_layout(name, length, world)
    everyone = [layout.positions(rank) for rank in range(world)]
    assert sorted(np.concatenate(everyone).tolist()) == list(range(length))
    assert all((np.diff(mine) > 0).all() for mine in everyone)
    assert [len(mine) for mine in everyone] == [layout.local_length(rank) for rank in range(world)]


@given(st.sampled_from(LAYOUTS), st.integers(0, 60), st.integers(1, 6), st.integers(1, 4))
def test_refining_moves_no_token(name, length, world, factor):
    layout = make_layout(name, length, world)
    finer = layout.refine(factor)
    assert finer.chunks_per_rank == layout.chunks_per_rank * factor
    for rank in range(world):
        assert finer.positions(rank).tolist() == layout.positions(rank).tolist()


def area(positions: np.ndarray, mask: Mask, length: int) -> int:
    start, stop = mask.intervals(positions, queries=length, keys=length)
    return int((stop - start).sum())


@pytest.mark.parametrize(
    "mask",
    [
        Mask(),
        Mask(window=100),
        Mask(documents=(0, 50, 60, 700, 1000)),
        Mask(documents=(0, 900, 1000)),
        Mask(documents=tuple(range(0, 1001, 40))),
    ],
    ids=["causal", "window", "documents", "one long document", "equal documents"],
)
@pytest.mark.parametrize("world", [2, 3, 4, 8])
def test_balanced_gives_each_rank_the_same_area_and_tokens(mask, world):
    length = 1000
    layout = make_layout("balanced", length, world, mask)
    areas = [area(layout.positions(rank), mask, length) for rank in range(world)]
    assert max(areas) <= 1.05 * sum(areas) / world
    tokens = [layout.local_length(rank) for rank in range(world)]
    # Parts differ by one token at most, and every rank has twelve of them.
    assert max(tokens) - min(tokens) <= 12


def test_balanced_is_better_than_zigzag_where_documents_are_uneven():
    mask, length, world = Mask(documents=(0, 100, 130, 900, 1000)), 1000, 4

    def worst(name: str) -> float:
        layout = make_layout(name, length, world, mask)
        areas = [area(layout.positions(rank), mask, length) for rank in range(world)]
        return max(areas) / (sum(areas) / world)

    assert worst("balanced") < 1.05 < worst("zigzag")


def test_split():
    assert [list(part) for part in split(range(0, 14, 2), 3)] == [[0, 2, 4], [6, 8], [10, 12]]


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize(
    "mask",
    [Mask(), Mask(causal=False), Mask(window=3), Mask(documents=(0, 4, 4, 17))],
    ids=["causal", "full", "window", "documents"],
)
def test_no_block_with_work_is_given_up(name, mask):
    length, world = 17, 3
    layout = make_layout(name, length, world)
    visible = visible_blocks(mask, layout, layout)
    for i, queries in enumerate(layout.chunks):
        for j, keys in enumerate(layout.chunks):
            work = any(
                sees(
                    a, b, queries=length, keys=length, causal=mask.causal, window=mask.window, documents=mask.documents
                )
                for a in queries
                for b in keys
            )
            assert visible[i, j] or not work
            if name != "striped" and mask.documents is None:
                assert visible[i, j] == work


def test_unknown_layout_suggests():
    with pytest.raises(ValueError, match=r"unknown layout 'zigzga' \(did you mean 'zigzag'\?\); there are balanced"):
        make_layout("zigzga", 8, 2)


@pytest.mark.parametrize(
    ("chunks", "text"),
    [
        ((range(0, 2), range(2, 4), range(4, 6)), "same number of chunks on each rank, got 3 chunks for 2 ranks"),
        ((range(0, 2), range(2, 4)), "hold every position once: 4 held of 6"),
        ((range(2, 4), range(0, 2), range(4, 5), range(5, 6)), "the chunks of rank 0 must ascend"),
    ],
)
def test_a_layout_that_is_none(chunks, text):
    with pytest.raises(ValueError) as error:
        Layout("mine", 6, 2, chunks)
    assert text in str(error.value)
