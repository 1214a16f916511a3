"""The reference's formulas over tiles of the score matrix, so that memory stays bounded.

Serves what no fused kernel at hand does: softcapped scores on a CPU, any dtype and head size on any device.
"""

from __future__ import annotations

from ringattn.kernels.bands import Band
from ringattn.kernels.naive import Naive

# Scores of one head in one tile: small enough for a core's cache, large enough for a matrix product at speed.
_TILE = 512


class Tiled(Naive):
    """`Naive`, called for tiles of at most 512 x 512; the executor merges them as it merges ranks."""

    name = "tiled"

    def lower(self, band: Band) -> list[Band]:
        tiles = []
        for i in range(0, band.rows, _TILE):
            for j in range(0, band.keys, _TILE):
                tiles += _clip(band, i, min(_TILE, band.rows - i), j, min(_TILE, band.keys - j))
        return tiles


def _clip(band: Band, row: int, rows: int, key: int, keys: int) -> list[Band]:
    """The part of `band` in a tile, its rows that see nothing there cut off; none where that is all of them."""
    low = None if band.low is None else band.low + row - key
    high = None if band.high is None else band.high + row - key
    # Row i sees j from max(0, i + low) to min(keys - 1, i + high): it sees some while i + high >= 0, i + low < keys.
    if high is not None and high < 0:
        row, rows, high, low = row - high, rows + high, 0, None if low is None else low - high
    if low is not None:
        rows = min(rows, keys - low)
    if rows <= 0:
        return []
    if low is not None and rows - 1 + low <= 0:
        low = None
    if high is not None and high >= keys - 1:
        high = None
    return [Band(band.row + row, rows, band.key + key, keys, low, high)]
