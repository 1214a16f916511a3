"""A task's mask becomes few bands, and they cover it exactly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringattn import Mask
from ringattn.kernels import KERNELS
from ringattn.kernels.bands import Band, find_bands
from ringattn.sequence.layout import LAYOUTS, make_layout


def covered(bands: list[Band], rows: int, keys: int) -> np.ndarray:
    """How often each score is covered."""
    count = np.zeros((rows, keys), dtype=int)
    for band in bands:
        for i in range(band.rows):
            for j in range(band.keys):
                above = band.low is None or j - i >= band.low
                if above and (band.high is None or j - i <= band.high):
                    count[band.row + i, band.key + j] += 1
    return count


def bands_of(mask: Mask, queries: np.ndarray, keys: np.ndarray, length: int) -> tuple[list[Band], np.ndarray]:
    start, stop = mask.intervals(queries, queries=length, keys=length)
    start, stop = np.searchsorted(keys, start), np.searchsorted(keys, stop)
    wanted = (np.arange(len(keys)) >= start[:, None]) & (np.arange(len(keys)) < stop[:, None])
    return find_bands(start, stop), wanted


def test_a_causal_zigzag_shard_is_one_band():
    mine = make_layout("zigzag", 64, 4).positions(1)
    bands, _ = bands_of(Mask(), mine, mine, 64)
    assert bands == [Band(0, 16, 0, 16, None, 0)]


def test_the_other_steps_of_a_zigzag_ring_are_one_rectangle_each():
    layout = make_layout("zigzag", 64, 4)
    earlier, _ = bands_of(Mask(), layout.positions(2), layout.positions(1), 64)
    later, _ = bands_of(Mask(), layout.positions(1), layout.positions(2), 64)
    assert earlier == [Band(0, 16, 0, 8)]
    assert later == [Band(8, 8, 0, 16)]


def test_striped_shards_are_triangles():
    layout = make_layout("striped", 12, 3)
    earlier, _ = bands_of(Mask(), layout.positions(1), layout.positions(0), 12)
    later, _ = bands_of(Mask(), layout.positions(0), layout.positions(1), 12)
    assert earlier == [Band(0, 4, 0, 4, None, 0)]
    assert later == [Band(1, 3, 0, 3, None, 0)]


def test_a_window_is_one_band():
    everything = np.arange(20)
    bands, _ = bands_of(Mask(window=4), everything, everything, 20)
    assert bands == [Band(0, 20, 0, 20, -3, 0)]


def test_each_document_is_a_band():
    everything = np.arange(9)
    bands, _ = bands_of(Mask(documents=(0, 4, 4, 9)), everything, everything, 9)
    assert bands == [Band(0, 4, 0, 4, None, 0), Band(4, 5, 4, 5, None, 0)]


@st.composite
def tasks(draw):
    length = draw(st.integers(1, 40))
    world = draw(st.integers(1, 5))
    layout = make_layout(draw(st.sampled_from(LAYOUTS)), length, world)
    cuts = draw(st.lists(st.integers(0, length), max_size=3))
    mask = Mask(
        draw(st.booleans()),
        draw(st.one_of(st.none(), st.integers(1, length))),
        (0, *sorted(cuts), length) if cuts else None,
    )
    queries = layout.positions(draw(st.integers(0, world - 1)))
    keys = layout.positions(draw(st.integers(0, world - 1)))
    return mask, queries, keys, length


@settings(max_examples=200, deadline=None)
@given(tasks())
def test_bands_cover_a_mask_exactly_once(task):
    bands, wanted = bands_of(*task)
    assert np.array_equal(covered(bands, *wanted.shape), wanted)
    assert sum(band.area for band in bands) == wanted.sum()


@settings(max_examples=100, deadline=None)
@given(tasks())
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_what_a_kernel_makes_of_bands_covers_the_same(kernel, task):
    bands, wanted = bands_of(*task)
    calls = [call for band in bands for call in kernel.lower(band)]
    assert np.array_equal(covered(calls, *wanted.shape), wanted)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
@pytest.mark.parametrize(
    "band",
    [
        Band(0, 1100, 0, 1300, None, 200),
        Band(0, 1300, 0, 1300, -99, 0),
        Band(3, 1300, 5, 1100, -700, 50),
        Band(0, 700, 0, 1500, -20, None),
        Band(0, 1500, 0, 700, None, 0),
    ],
    ids=str,
)
def test_wide_bands_keep_their_area_when_cut_up(kernel, band):
    calls = kernel.lower(band)
    assert sum(call.area for call in calls) == band.area
    for call in calls:
        assert band.row <= call.row and call.row + call.rows <= band.row + band.rows
        assert band.key <= call.key and call.key + call.keys <= band.key + band.keys
