"""`schedule=auto`: the schedule for one attention call, found by the search that `ringattn plan` shows. No torch."""

from __future__ import annotations

from functools import lru_cache

from ringattn.planner.cluster import Cluster
from ringattn.planner.cluster_file import read_cluster
from ringattn.planner.costs import Workload
from ringattn.planner.search import search
from ringattn.schedule.traffic import Tensors
from ringattn.sequence.layout import make_layout
from ringattn.sequence.mask import Mask

AUTO = "auto"

# Past so many ranks a search with plays takes longer than a person wants to wait for a first step.
_PLAYED_RANKS = 16

# Parts of the names that devices go by, and the cluster of such devices; the first that is found counts.
_CLUSTERS = {
    "H100": "h100_8x",
    "H800": "h800_8x",
    "A100": "a100_8x",
    "A10": "a10_4x",
    "L20": "l20_8x",
    "MI300X": "mi300x_8x",
}


def cluster_for(name: str | None, device: str, world: int) -> Cluster:
    """The cluster to search on: the named one, or the shipped one of such devices. device: `cpu`, or a GPU's name.

    Raises:
        ValueError: none is shipped for the device, or it has fewer ranks.
    """
    if name is None and device != "cpu":
        found = next((cluster for part, cluster in _CLUSTERS.items() if part in device), None)
        if found is None:
            raise ValueError(
                f"schedule=auto knows no cluster of {device}: measure one with `ringattn doctor --links --out FILE` "
                "and name it with cluster=FILE"
            )
        one = read_cluster(found)
        return read_cluster(found, nodes=-(-world // one.world)).first(world)
    cluster = read_cluster(name or "this_machine")
    if cluster.world < world:
        raise ValueError(
            f"schedule=auto needs a cluster of {world} ranks, and {cluster.name!r} describes {cluster.world}: measure "
            f"yours with `ringattn doctor --links --ranks {world} --out FILE` and name it with cluster=FILE"
        )
    return cluster.first(world)


@lru_cache(maxsize=64)
def choose(
    cluster: Cluster,
    layout: str,
    lengths: tuple[int, int],
    mask: Mask,
    tensors: Tensors,
    dtype: str,
    *,
    backward: bool,
) -> str:
    """What `schedule=` takes for the fastest schedule found.

    lengths: of queries and of keys. mask: its packed documents are passed over, since they change from batch to batch.
    """
    if cluster.world == 1:
        return "ring"
    plain = Mask(mask.causal, mask.window, landmark_block=mask.landmark_block)
    queries, keys = (make_layout(layout, length, cluster.world, plain) for length in lengths)
    workload = Workload(queries, keys, plain, tensors, dtype)
    found = search(cluster, workload, (layout,), play=cluster.world <= _PLAYED_RANKS, directions=(backward,))[0]
    return found.forward[0].schedule
