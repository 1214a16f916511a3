"""How a model's layers mix tokens over ranks in one layout: schedules of attention, routes of states. No torch.

Full layers have the schedules that the search finds for a causal mask. Sliding layers run under the same ones, as the
trainer runs them, with what their window leaves of a schedule. Linear layers have no schedule: their states take a
route, and what a short convolution reads of other ranks goes before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ringattn.planner.architecture import FULL, LINEAR, SLIDING, Architecture
from ringattn.planner.cluster import Cluster
from ringattn.planner.costs import Workload
from ringattn.planner.search import Candidate, Found, search, timed, with_layout
from ringattn.planner.states import RouteCandidate, halo_seconds, likely_routes
from ringattn.sequence.layout import make_layout
from ringattn.sequence.mask import Mask
from ringattn.sequence.stretches import stretches

Seconds = tuple[float, float]


@dataclass(frozen=True)
class Mixing:
    """One layout. found: the schedules of attention, best first. routes: of one linear layer's states, best first; none
    where nothing travels. halo: seconds of one convolution's, forward and backward. layers: seconds of all layers of a
    hybrid together, under the best of these, one forward and one backward: of attention, and of what linear layers need
    of other ranks."""

    found: Found
    routes: tuple[RouteCandidate, ...] = ()
    halo: Seconds = (0.0, 0.0)
    layers: Seconds = (0.0, 0.0)

    def passing(self, route: RouteCandidate | None) -> Seconds:
        """Seconds of what one linear layer needs of other ranks, forward and backward."""
        states = (0.0, 0.0) if route is None else (route.forward, route.backward)
        return states[0] + self.halo[0], states[1] + self.halo[1]


def mixings(sizes: Architecture, cluster: Cluster, workload: Workload, layouts: Sequence[str]) -> list[Mixing]:
    """What was found for each layout, the fastest for all layers of the model first. workload: a full layer's call.

    Raises:
        ValueError: linear layers with a layout that is not made of runs, or over too many ranks to play.
    """
    layers = Counter(sizes.kinds())
    mixer = sizes.mixer()
    if not layers[LINEAR] and not layers[SLIDING]:
        return [Mixing(found) for found in search(cluster, workload, layouts)]
    ranks, length = workload.query_layout.world, workload.query_layout.length
    if layers[FULL]:
        schedules = search(cluster, workload, layouts)
    elif layers[SLIDING]:
        schedules = search(cluster, replace(workload, mask=Mask(window=sizes.window(SLIDING))), layouts)
    else:
        schedules = [Found(name, (idle(name, False),), (idle(name, True),)) for name in layouts]
    made = []
    for found in schedules:
        mixing = Mixing(found)
        if mixer is not None and ranks > 1:
            cut = make_layout(found.layout, length, ranks, workload.mask)
            row = mixer.convolved * workload.tensors.item_bytes
            halo = halo_seconds(cut, mixer.conv_width, row, cluster) if row else (0.0, 0.0)
            mixing = Mixing(found, tuple(likely_routes(cut, mixer.states(), cluster)), halo)
        attention = layers[FULL] * found.seconds
        if layers[SLIDING]:
            best = found.forward[0], found.backward[0]
            attention += layers[SLIDING] * sum(sliding_seconds(sizes, cluster, workload, *best))
        passing = layers[LINEAR] * sum(mixing.passing(mixing.routes[0] if mixing.routes else None))
        made.append(replace(mixing, layers=(attention, passing)))
    return sorted(made, key=lambda mixing: sum(mixing.layers))


def idle(layout: str, backward: bool) -> Candidate:
    """Stands where no layer attends."""
    return Candidate("ring", layout, backward, 0.0, 0.0, 0.0, None, played=True)


def sliding_seconds(
    sizes: Architecture, cluster: Cluster, workload: Workload, forward: Candidate, backward: Candidate
) -> Seconds:
    """Of one sliding layer under schedules that were found for full ones."""
    window = sizes.window(SLIDING)
    if window is None:
        return 0.0, 0.0
    own = replace(with_layout(workload, forward.layout), mask=Mask(window=window))
    return timed(cluster, own, forward).seconds, timed(cluster, own, backward).seconds


def check_layouts(sizes: Architecture, layouts: Sequence[str]) -> None:
    """ValueError where linear layers cannot have one of them."""
    if sizes.mixer() is not None:
        for name in layouts:
            stretches(make_layout(name, 4, 2))
