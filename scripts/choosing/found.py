"""The best schedules of the whole grid, as a search found them: kept in found.json, since a search takes minutes.

Kept are names, and two times each of 64 ranks, which were played; every other time in the document is predicted anew
from the names. `python scripts/draw_choosing.py --search` searches again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from choosing.cases import ESTIMATED_RANKS, PORTS, Call, cluster_of, played, points_of, timed, workload_of
from ringattn.planner.search import search

FILE = Path(__file__).with_name("found.json")

RANKS = (2, 8, 64, 1024)
TOKENS = (2048, 8192, 32768)
KEY_HEADS = (8, 32)

# Past these ranks even the few points that are kept take too long to play.
_PLAYED_RANKS = 64


def calls() -> Iterator[Call]:
    """What is searched: four sizes of one cluster, then other links."""
    for ranks in RANKS:
        for tokens in TOKENS:
            for key_heads in KEY_HEADS:
                yield Call("h100_8x", ranks, tokens, key_heads)
    for cluster, ranks, tokens in ((PORTS, 8, 16384), ("mi300x_8x", 8, 8192), ("l20_8x", 8, 8192), ("a10_4x", 4, 8192)):
        for key_heads in KEY_HEADS:
            yield Call(cluster, ranks, tokens, key_heads)


@dataclass(frozen=True)
class Best:
    """named: the fastest schedule that the literature has a name for. found: the fastest of all. played: seconds of
    both, where they are estimated elsewhere but were played here."""

    call: Call
    backward: bool
    named: str
    found: str
    played: tuple[float, float] | None = None

    @property
    def gain(self) -> float:
        """How much less time the found one takes, as a fraction of the named one's: as played, where it was."""
        named, found = self.played or (
            timed(self.call, self.named, backward=self.backward).seconds,
            timed(self.call, self.found, backward=self.backward).seconds,
        )
        return 1 - found / named


def best(call: Call, *, backward: bool) -> Best:
    """From found.json."""
    return _read()[call, backward]


def everything() -> list[Best]:
    """All of found.json, in its order."""
    return list(_read().values())


def _read() -> dict[tuple[Call, bool], Best]:
    global _kept
    if _kept is None:
        _kept = {}
        for entry in json.loads(FILE.read_text(encoding="utf-8")):
            call = Call(**entry.pop("call"))
            times = entry.pop("played")
            _kept[call, entry["backward"]] = Best(call=call, played=tuple(times) if times else None, **entry)
    return _kept


_kept: dict[tuple[Call, bool], Best] | None = None


def searched(call: Call) -> list[Best]:
    """The forward's and the backward's, searched for now."""
    if call.ranks < ESTIMATED_RANKS:
        # Named schedules are played as well, so that the simulator decides between them.
        layout = search(cluster_of(call.cluster, call.ranks), workload_of(call), ("zigzag",))[0]
        ordered = {False: [c.schedule for c in layout.forward], True: [c.schedule for c in layout.backward]}
    else:
        layout = search(cluster_of(call.cluster, call.ranks), workload_of(call), ("zigzag",), play=False)[0]
        others = [spec for spec, point in points_of(call).items() if point.name()]
        ordered = {}
        for backward, candidates in ((False, layout.forward), (True, layout.backward)):
            specs = [candidates[0].schedule, *others]
            ordered[backward] = sorted(specs, key=lambda s: (timed(call, s, backward=backward).seconds, s))
    made = []
    for backward, specs in ordered.items():
        named = next(spec for spec in specs if not spec.startswith("grid"))
        found = specs[0]
        times = None
        if ESTIMATED_RANKS <= call.ranks <= _PLAYED_RANKS and found != named:
            first, second = (played(call, spec, backward=backward).seconds for spec in (named, found))
            times = (float(f"{first:.4g}"), float(f"{second:.4g}"))
        made.append(Best(call, backward, named, found, times))
    return made


def write(found: list[Best]) -> None:
    """Write found.json, an entry a line."""
    lines = ",\n".join(json.dumps(asdict(entry)) for entry in found)
    FILE.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
