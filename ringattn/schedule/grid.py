"""The whole space of schedules: head groups x query groups x key groups, times a route for each thing that travels.

Rank (x, y, h) of the grid computes, for head group h, the queries of query group x with the keys of key group y.
What a rank owns goes first to the ranks of its cell that hold the other heads, then along its row (queries, to
every key group) or its column (keys, to every query group). A block is computed in the first step in which both of
its parcels are there. Every named schedule is a point of this grid, in a few lines of its own file.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from ringattn.schedule.build import Builder, merged_chunks
from ringattn.schedule.route import OneWay, Route
from ringattn.schedule.value import Schedule, Shape, Side

# For each rank: the step whose end brings some chunks (-1: owned), and the chunks. A rank has one head group.
Arrivals = dict[int, list[tuple[int, tuple[int, ...]]]]

# For each side and rank: first chunk of a unit -> the last step in which it is computed with there.
LastUse = dict[Side, list[dict[int, int]]]


def grid(
    shape: Shape,
    *,
    heads: int = 1,
    queries: int = 1,
    keys: int = 1,
    query_route: Route | None = None,
    key_route: Route | None = None,
    sum_on_the_way: bool = False,
    overlap: bool = True,
    name: str | None = None,
) -> Schedule:
    """The schedule at one point of the grid.

    heads, queries, keys: the number of head, query and key groups; their product is the number of ranks.
    query_route, key_route: how queries reach the key groups of their row, and keys the query groups of their
        column; hop by hop around a ring unless given.
    sum_on_the_way: gradients of keys and values follow their keys and are summed at each hop (ring attention);
        without it, each rank sends its share straight home.
    overlap: compute what can be computed while the rest is under way. Without it a rank waits for all its inputs
        and computes them in one task.
    """
    if heads * queries * keys != shape.world or min(heads, queries, keys) < 1:
        raise ValueError(
            "head groups x query groups x key groups must give the number of ranks: "
            f"{heads} x {queries} x {keys} = {heads * queries * keys}, but there are {shape.world} ranks"
        )
    query_route, key_route = query_route or OneWay(), key_route or OneWay()
    lanes = (query_route.lanes(keys), key_route.lanes(queries))
    plan = Builder(
        name or f"grid:heads={heads},queries={queries},keys={keys}",
        shape,
        pieces=math.lcm(*lanes),
        head_groups=heads,
    )

    def rank_at(x: int, y: int, h: int) -> int:
        return (x * keys + y) * heads + h

    rows = [[[rank_at(x, y, h) for y in range(keys)] for x in range(queries)] for h in range(heads)]
    columns = [[[rank_at(x, y, h) for x in range(queries)] for y in range(keys)] for h in range(heads)]

    # A line is the row or the column that a parcel travels along, and `place` is where on it its cell stands.
    query_lines = [[(rows[h][x], y) for x in range(queries) for y in range(keys)] for h in range(heads)]
    key_lines = [[(columns[h][y], x) for x in range(queries) for y in range(keys)] for h in range(heads)]
    query_chains: dict = {}
    key_chains: dict = {}
    has_queries = _distribute(plan, Side.QUERY, query_route, query_lines, query_chains)
    has_keys = _distribute(plan, Side.KEY, key_route, key_lines, key_chains)

    last_use: LastUse = {side: [{} for _ in range(shape.world)] for side in Side}
    for h in range(heads):
        for x in range(queries):
            for y in range(keys):
                rank = rank_at(x, y, h)
                _compute(plan, rank, h, has_queries[rank], has_keys[rank], overlap=overlap, last_use=last_use)

    _send_results(plan, Side.QUERY, query_chains, last_use, along=False)
    _send_results(plan, Side.KEY, key_chains, last_use, along=sum_on_the_way)
    return plan.build()


def _distribute(
    plan: Builder,
    side: Side,
    route: Route,
    lines: Sequence[Sequence[tuple[list[int], int]]],
    chains_of: dict,
) -> Arrivals:
    """Send every parcel of one side where its tasks are. Fills `chains_of[owner, chunks, head group]` with the ranks
    that compute with it, chain by chain; returns what arrives where and when."""
    heads = len(lines)
    # With head groups the first step deals the heads out inside each cell, and the lines begin one step later.
    offset = int(heads > 1)
    arrivals: Arrivals = defaultdict(list)
    moves: defaultdict[tuple[int, int, int, int, int], list[tuple[int, ...]]] = defaultdict(list)
    for h, by_cell in enumerate(lines):
        for cell, (line, place) in enumerate(by_cell):
            entry = line[place]
            lanes = route.lanes(len(line))
            for owner in range(cell * heads, (cell + 1) * heads):
                for lane in range(lanes):
                    chunks = plan.chunks(owner, piece=lane, of=lanes)
                    reached = [[entry]]
                    arrivals[entry].append((-1 if owner == entry else 0, chunks))
                    if owner != entry:
                        moves[0, 0, owner, entry, h].append(chunks)
                    for chain in route.chains(line, place, lane):
                        for step, due, source, target in chain:
                            moves[step + offset, due + offset, source, target, h].append(chunks)
                            arrivals[target].append((due + offset, chunks))
                        reached.append([hop.target for hop in chain])
                    chains_of[owner, chunks, h] = reached
    for (step, due, source, target, h), groups in moves.items():
        plan.send(step, source, target, side, merged_chunks(groups), heads=h, due=due)
    return arrivals


def _compute(
    plan: Builder,
    rank: int,
    heads: int,
    queries: list[tuple[int, tuple[int, ...]]],
    keys: list[tuple[int, tuple[int, ...]]],
    *,
    overlap: bool,
    last_use: LastUse,
) -> None:
    """Each block in the first step in which both parcels are there."""
    if not overlap:
        ready = max(step for step, _ in [*queries, *keys])
        queries = [(ready, chunks) for _, chunks in queries]
        keys = [(ready, chunks) for _, chunks in keys]
    new_queries: defaultdict[int, list[tuple[int, ...]]] = defaultdict(list)
    new_keys: defaultdict[int, list[tuple[int, ...]]] = defaultdict(list)
    for step, chunks in queries:
        new_queries[step + 1].append(chunks)
    for step, chunks in keys:
        new_keys[step + 1].append(chunks)
    old_queries: list[tuple[int, ...]] = []
    all_keys: list[tuple[int, ...]] = []
    for step in sorted(new_queries.keys() | new_keys.keys()):
        fresh_queries, fresh_keys = new_queries.get(step), new_keys.get(step)
        if fresh_keys:
            all_keys += fresh_keys
        if fresh_queries and all_keys:
            plan.compute(step, rank, queries=merged_chunks(fresh_queries), keys=merged_chunks(all_keys), heads=heads)
        if old_queries and fresh_keys:
            plan.compute(step, rank, queries=merged_chunks(old_queries), keys=merged_chunks(fresh_keys), heads=heads)
        if fresh_queries:
            old_queries += fresh_queries
    last_key = max(new_keys)
    last_query = max(new_queries)
    last_use[Side.QUERY][rank] = {chunks[0]: max(step + 1, last_key) for step, chunks in queries}
    last_use[Side.KEY][rank] = {chunks[0]: max(step + 1, last_query) for step, chunks in keys}


def _send_results(
    plan: Builder,
    side: Side,
    chains_of: dict,
    last_use: LastUse,
    *,
    along: bool,
) -> None:
    """Bring home what each rank computed for chunks of others.

    Straight: each result leaves as soon as it is computed, and has the next step's time to get home. Down the chain:
    what came from the rank before is there when a step begins, and goes on with what was computed here by then.
    """
    moves: defaultdict[tuple[int, int, int, int], list[tuple[int, ...]]] = defaultdict(list)
    used = last_use[side]
    for (owner, chunks, h), reached in chains_of.items():
        for chain in reached:
            received = -1
            for place, rank in enumerate(chain):
                if rank == owner:
                    continue
                computed = used[rank][chunks[0]]
                if not along:
                    moves[computed, rank, owner, h].append(chunks)
                    continue
                step = max(computed, received) + 1
                next_on_chain = place + 1 < len(chain)
                target = chain[place + 1] if next_on_chain else owner
                received = step
                moves[step, rank, target, h].append(chunks)
    for (step, source, target, h), groups in moves.items():
        due = step if along else step + 1
        plan.send_result(step, source, target, side, merged_chunks(groups), heads=h, due=due)
