"""How many bytes a schedule promises to send: rows of chunks times what a row of each travelling thing weighs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ringattn.schedule.value import Kind, Schedule, Side, key_heads_of
from ringattn.sequence.layout import Layout


class Part(NamedTuple):
    """One tensor of a parcel or a partial.

    wide: in the dtype that partial results are summed in (fp32, or fp64 for fp64 inputs), not in that of the inputs.
    vector: has a head dimension, [rows, B, heads, D]; otherwise a number a row and head, [rows, B, heads].
    """

    name: str
    wide: bool
    vector: bool


_PARTS = {
    (False, Kind.PARCEL, Side.QUERY): (Part("query", False, True),),
    (False, Kind.PARCEL, Side.KEY): (Part("key", False, True), Part("value", False, True)),
    (False, Kind.PARTIAL, Side.QUERY): (Part("out", True, True), Part("lse", True, False)),
    (True, Kind.PARCEL, Side.QUERY): (
        Part("lse", True, False),
        Part("delta", True, False),
        Part("query", False, True),
        Part("grad_out", False, True),
    ),
    (True, Kind.PARCEL, Side.KEY): (Part("key", False, True), Part("value", False, True)),
    (True, Kind.PARTIAL, Side.QUERY): (Part("grad_query", True, True),),
    (True, Kind.PARTIAL, Side.KEY): (Part("grad_key", True, True), Part("grad_value", True, True)),
}


def parts(kind: Kind, side: Side, *, backward: bool) -> tuple[Part, ...]:
    """The tensors that travel together as this kind of thing on this side; none for key results in the forward."""
    return _PARTS.get((backward, kind, side), ())


@dataclass(frozen=True)
class Tensors:
    """The sizes of one attention call. item_bytes: of an element of q, k, v; sum_bytes: of a partial result's."""

    batch: int
    query_heads: int
    key_heads: int
    head_dim: int
    item_bytes: int
    sum_bytes: int

    def heads(self, side: Side, group: tuple[int, int]) -> tuple[int, int]:
        """The half-open range of heads of one side that a group of query heads needs."""
        return group if side is Side.QUERY else key_heads_of(group, self.query_heads // self.key_heads)

    def row_bytes(self, kind: Kind, side: Side, group: tuple[int, int], *, backward: bool) -> int:
        """Bytes of one row (one token) of a parcel or partial of one head group."""
        start, stop = self.heads(side, group)
        return sum(
            self.batch
            * (stop - start)
            * (self.head_dim if part.vector else 1)
            * (self.sum_bytes if part.wide else self.item_bytes)
            for part in parts(kind, side, backward=backward)
        )


def chunk_bytes(
    schedule: Schedule, query_layout: Layout, key_layout: Layout, tensors: Tensors, *, backward: bool
) -> Callable[[Kind, Side, int, int], int]:
    """The `size` that `verify` takes to count bytes: (kind, side, chunk, head group) -> bytes."""
    rows = {
        Side.QUERY: [len(chunk) for chunk in query_layout.chunks],
        Side.KEY: [len(chunk) for chunk in key_layout.chunks],
    }
    row_bytes = {
        (kind, side, group): tensors.row_bytes(kind, side, heads, backward=backward)
        for kind in Kind
        for side in Side
        for group, heads in enumerate(schedule.heads)
    }

    def size(kind: Kind, side: Side, chunk: int, group: int) -> int:
        return rows[side][chunk] * row_bytes[kind, side, group]

    return size
