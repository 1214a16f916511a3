"""The areas of blocks: small cases counted by eye, any mask against counting every pair, samples against all."""

import numpy as np
import pytest

from ringattn.sequence.blocks import block_areas
from ringattn.sequence.layout import LAYOUTS, make_layout
from ringattn.sequence.mask import Mask


def areas(mask, *, layout="contiguous", length=8, world=2, samples=None):
    cut = make_layout(layout, length, world)
    return block_areas(mask, cut, cut, samples=samples)


def test_causal():
    """Four chunks of two: triangles of three on the diagonal, whole blocks of four below it."""
    assert areas(Mask()).tolist() == [[3, 0, 0, 0], [4, 3, 0, 0], [4, 4, 3, 0], [4, 4, 4, 3]]


def test_full():
    assert areas(Mask(causal=False)).tolist() == [[4] * 4] * 4


def test_a_window():
    """A window of 3: a query sees itself and the two keys before it."""
    assert areas(Mask(window=3)).tolist() == [[3, 0, 0, 0], [3, 3, 0, 0], [0, 3, 3, 0], [0, 0, 3, 3]]


def test_documents():
    """Documents of 3 and 5 tokens: key 2 is the first document's and lies in chunk 1 with key 3."""
    assert areas(Mask(documents=(0, 3, 8))).tolist() == [[3, 0, 0, 0], [2, 2, 0, 0], [0, 2, 3, 0], [0, 2, 4, 3]]


def test_zigzag_chunks_lie_where_their_positions_are():
    """Rank 0 has the parts 0 and 3, rank 1 the parts 1 and 2."""
    assert areas(Mask(), layout="zigzag").tolist() == [[3, 0, 0, 0], [4, 3, 4, 4], [4, 0, 3, 0], [4, 0, 4, 3]]


def test_striped_chunks_meet_along_a_diagonal_everywhere():
    """Rank 0 has 0 2 | 4 6, rank 1 has 1 3 | 5 7: position 2 sees keys 0 and 2, and of rank 1 key 1 alone."""
    assert areas(Mask(), layout="striped").tolist() == [[3, 0, 1, 0], [4, 3, 4, 1], [3, 0, 3, 0], [4, 3, 4, 3]]


MASKS = {
    "causal": Mask(),
    "full": Mask(causal=False),
    "window": Mask(window=40),
    "wide": Mask(causal=False, window=40),
    "documents": Mask(documents=(0, 13, 200, 411)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", MASKS)
def test_areas_add_up_to_what_the_mask_shows(name, layout):
    mask, length = MASKS[name], 411
    first, last = mask.intervals(np.arange(length), queries=length, keys=length)
    assert areas(mask, layout=layout, length=length, world=3).sum() == (last - first).sum()


@pytest.mark.parametrize("layout", ["contiguous", "zigzag", "striped"])
@pytest.mark.parametrize("name", ["causal", "full", "window"])
def test_sixteen_samples_stand_for_all_rows(name, layout):
    """A bound that moves evenly is sampled at the middles of its stretches: right to a row of each chunk's keys, and
    exact where blocks are seen whole."""
    mask, length, world = MASKS[name], 4096, 4
    exact = areas(mask, layout=layout, length=length, world=world)
    sampled = areas(mask, layout=layout, length=length, world=world, samples=16)
    chunk = length / world / 2
    # Each sample stands for chunk / 16 rows, within which the bound moves by at most so many keys.
    assert np.abs(sampled - exact).max() <= (chunk / 16) * chunk / 2
    whole = exact == chunk**2
    assert (sampled[whole] == exact[whole]).all()
    if name == "causal":
        assert sampled.sum() == pytest.approx(exact.sum(), rel=0.002)


def test_few_rows_are_all_looked_at():
    assert (areas(Mask(), samples=16) == areas(Mask())).all()
