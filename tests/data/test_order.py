"""The shuffle that is never stored: a permutation for every size, another one for every key, and a fair one."""

from collections import Counter
from itertools import pairwise

import pytest

from ringattn.data.order import Permutation


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 100, 1000])
def test_every_number_comes_once(size):
    shuffled = Permutation(size, (7, 0))
    assert sorted(shuffled[place] for place in range(size)) == list(range(size))


def test_another_key_is_another_order():
    orders = {tuple(Permutation(50, key)[i] for i in range(50)) for key in ((0, 0), (0, 1), (1, 0), (10, 0), (0, 10))}
    assert len(orders) == 5
    assert [Permutation(50, (3, 4))[i] for i in range(50)] == [Permutation(50, (3, 4))[i] for i in range(50)]


def test_every_number_is_as_likely_at_every_place():
    """Over 3,000 keys each of 6 numbers is first, third and last about 500 times: within 5 standard deviations."""
    for place in (0, 2, 5):
        counted = Counter(Permutation(6, (key, 1))[place] for key in range(3000))
        assert set(counted) == set(range(6))
        assert all(abs(number - 500) < 5 * (3000 * 1 / 6 * 5 / 6) ** 0.5 for number in counted.values())


def test_neighbours_part():
    """Of a thousand numbers few stay beside the one that followed them: about 2 in a random order."""
    order = [Permutation(1000, (0, 0))[i] for i in range(1000)]
    assert sum(after - before == 1 for before, after in pairwise(order)) <= 8


def test_a_place_among_billions_is_found_at_once():
    many = Permutation(10**12, (0, 3))
    assert len({many[place] for place in range(1000)}) == 1000
    assert all(0 <= many[place] < 10**12 for place in (0, 10**11, 10**12 - 1))


def test_nothing_cannot_be_shuffled():
    with pytest.raises(ValueError, match="something to shuffle, got 0"):
        Permutation(0, (0, 0))
    with pytest.raises(IndexError):
        Permutation(3, (0, 0))[3]
