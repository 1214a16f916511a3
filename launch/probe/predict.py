"""How long transfers take on a described cluster when links are shared max-min fairly. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from ringattn.launch.probe.traffic import Flow

from ringattn.planner.cluster import Cluster


def seconds(cluster: Cluster, flows: Sequence[Flow], size: float) -> float:
    """Until the last of `flows`, of `size` bytes each, has arrived, all having started together."""
    ways = [cluster.way(source, target) for source, target in flows]
    left = dict.fromkeys(range(len(flows)), float(size))
    now = last = 0.0
    while left:
        rates = _fair(cluster, {flow: ways[flow].lanes for flow in left})
        passed = min(left[flow] / rates[flow] for flow in left)
        now += passed
        for flow in list(left):
            left[flow] -= rates[flow] * passed
            if left[flow] <= size * 1e-9:
                del left[flow]
                last = max(last, now + ways[flow].latency)
    return last


def _fair(cluster: Cluster, lanes: dict[int, tuple[int, ...]]) -> dict[int, float]:
    """Bytes/s of each flow: the lane that leaves its flows the least is divided equally among them, then the next."""
    rates: dict[int, float] = {}
    room = {lane: cluster.lanes[lane].bandwidth for crossed in lanes.values() for lane in crossed}
    while len(rates) < len(lanes):
        waiting = {lane: [f for f, crossed in lanes.items() if lane in crossed and f not in rates] for lane in room}
        share, tightest = min((room[lane] / len(flows), lane) for lane, flows in waiting.items() if flows)
        for flow in waiting[tightest]:
            rates[flow] = share
            for lane in lanes[flow]:
                room[lane] = max(0.0, room[lane] - share)
    return rates
