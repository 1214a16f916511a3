"""An order that is a function of a key alone: a permutation of any number of things, of which none is ever stored.

A balanced Feistel network permutes the numbers of 2k bits (M. Luby and C. Rackoff, "How to construct pseudorandom
permutations from pseudorandom functions", 1988): in each round the halves change places and one of them is mixed with a
keyed function of the other. To permute 0 to n - 1, the network is applied again while its result is n or more (J. Black
and P. Rogaway, "Ciphers with arbitrary finite domains", 2002, section 4, cycle walking): with the smallest k, less than
four times on the average.
"""

from __future__ import annotations

# Luby and Rackoff need four rounds of random functions; a few more cost nothing where the halves have few bits.
ROUNDS = 8
_WORD = (1 << 64) - 1


class Permutation:
    """A shuffle of 0 to `size` - 1, different for each tuple of numbers in `key`."""

    def __init__(self, size: int, key: tuple[int, ...]) -> None:
        if size < 1:
            raise ValueError(f"there must be something to shuffle, got {size} things: give a longer text.")
        self.size = size
        self._bits = max(1, -(-(size - 1).bit_length() // 2))
        state = 0
        for part in key:
            state = mix(state ^ part)
        self._keys = [mix(state + round_) for round_ in range(ROUNDS)]

    def __getitem__(self, place: int) -> int:
        """What comes at `place`."""
        if not 0 <= place < self.size:
            raise IndexError(place)
        value = self._once(place)
        while value >= self.size:
            value = self._once(value)
        return value

    def _once(self, value: int) -> int:
        mask = (1 << self._bits) - 1
        left, right = value >> self._bits, value & mask
        for key in self._keys:
            left, right = right, left ^ (mix(right ^ key) & mask)
        return left << self._bits | right


def mix(value: int) -> int:
    """64 bits to 64 bits, each output bit a function of all of the input: splitmix64 (G. Steele, D. Lea and C. Flood,
    "Fast splittable pseudorandom number generators", 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _WORD
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _WORD
    return value ^ value >> 31
