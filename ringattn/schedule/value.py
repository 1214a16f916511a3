"""A schedule as a value: who computes which block of attention, and what travels when. No torch, no tensors.

The sequence is cut into chunks; chunk c belongs to rank `c // chunks_per_rank`. Attention is the set of blocks
(query chunk, key chunk, head group). A schedule gives each block to a rank, and says which moves bring there what
the block needs and bring home what it yields.

Two kinds of things travel, on two sides:

              parcel (an input)                          partial (a result on its way home)
  forward     query: q              key: k, v            query: out, lse        (merged)
  backward    query: q, dout, lse, delta   key: k, v     query: dq   key: dk, dv   (summed)

The tasks are the same in both directions, so one schedule describes both; the forward passes over moves of key
partials, since there are none.

Time: a step's tasks and moves run at the same time. A task, and a parcel that sets out, use what was there when the
step began. A partial that sets out takes with it all that was made for its chunks until then, by tasks of the same
step too: then it leaves once they are done. What a move brings is there once the step `due` has ended (its own step
unless said otherwise: a transfer over a slow link may span several, and a result that leaves behind a step's tasks
should not hold up the step's end).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class Side(str, Enum):
    """Which of the two sequences a thing belongs to."""

    QUERY = "query"
    KEY = "key"


class Kind(str, Enum):
    """Whether a thing is an input of tasks or a result of them."""

    PARCEL = "parcel"
    PARTIAL = "partial"


class Task(NamedTuple):
    """`rank` computes every block (i, j, heads) with i in `queries` and j in `keys`."""

    rank: int
    queries: tuple[int, ...]
    keys: tuple[int, ...]
    heads: int


class Move(NamedTuple):
    """`chunks` of one side and head group go from rank `source` to rank `target`, there when step `due` ends.

    A parcel stays at the source as well; a partial leaves it, and is added to what the target has.
    """

    source: int
    target: int
    kind: Kind
    side: Side
    chunks: tuple[int, ...]
    heads: int
    due: int


class Step(NamedTuple):
    """What runs at the same time."""

    tasks: tuple[Task, ...]
    moves: tuple[Move, ...]


class Shape(NamedTuple):
    """What a schedule is built for: ranks, heads of queries and of keys, and the layout's chunks on each rank."""

    world: int
    query_heads: int = 1
    key_heads: int = 1
    chunks_per_rank: int = 2

    def check(self) -> None:
        if self.world < 1:
            raise ValueError(f"a schedule needs at least 1 rank, got {self.world}")
        if self.key_heads < 1 or self.query_heads % self.key_heads:
            raise ValueError(
                "the number of query heads must be a multiple of the number of key and value heads, "
                f"got {self.query_heads} and {self.key_heads}"
            )


@dataclass(frozen=True)
class Schedule:
    """See the module's text. `heads[g]` is the half-open range of query heads in head group g."""

    name: str
    world: int
    chunks_per_rank: int
    heads: tuple[tuple[int, int], ...]
    steps: tuple[Step, ...]

    def __hash__(self) -> int:
        # The steps of a large world are millions of tuples; equality still compares them.
        return hash((self.name, self.world, self.chunks_per_rank, self.heads, len(self.steps)))

    def owner(self, chunk: int) -> int:
        """The rank that chunk belongs to."""
        return chunk // self.chunks_per_rank

    @property
    def chunks(self) -> int:
        """The number of chunks on all ranks together."""
        return self.world * self.chunks_per_rank

    def digest(self) -> str:
        """Hexadecimal digest of the whole value, equal on two ranks only if they hold the same schedule."""
        digest = hashlib.sha256(repr((self.name, self.world, self.chunks_per_rank, self.heads)).encode())
        for step in self.steps:
            digest.update(repr((step.tasks, step.moves)).encode())
        return digest.hexdigest()


def key_heads_of(heads: tuple[int, int], ratio: int) -> tuple[int, int]:
    """The half-open range of key heads that the query heads in range `heads` attend with, `ratio` to one."""
    start, stop = heads
    return (start // ratio, -(-stop // ratio)) if stop > start else (start // ratio, start // ratio)
