"""What a schedule takes on a described cluster: the one way from a name to a simulation. No torch."""

from __future__ import annotations

import math

from ringattn.planner.cluster import Cluster
from ringattn.planner.costs import Workload, costs_of
from ringattn.planner.simulate import Simulation, simulate
from ringattn.schedule import make_schedule
from ringattn.schedule.prune import prune
from ringattn.schedule.value import Schedule, Shape
from ringattn.sequence.blocks import visible_blocks


def predict(
    schedule: str | Schedule, workload: Workload, cluster: Cluster, *, backward: bool, record: bool = False
) -> Simulation:
    """Simulate one direction of `schedule`, a name or a value, on the first ranks of `cluster`.

    The forward and the backward of a call may have different schedules: ask for each. record: keep the timelines.

    Raises:
        ValueError: the schedule cannot be built for the workload, the cluster has fewer ranks or no rate for its dtype.
    """
    costs = costs_of(as_run(schedule, workload), workload, cluster.accelerator, backward=backward)
    return simulate(costs, cluster, record=record)


def as_run(schedule: str | Schedule, workload: Workload) -> Schedule:
    """The schedule as ranks run it: built for the workload, without what its mask leaves out."""
    value = make_schedule(schedule, shape_of(workload)) if isinstance(schedule, str) else schedule
    return prune(value, visible_blocks(workload.mask, *workload.refined(value)))


def shape_of(workload: Workload) -> Shape:
    """What a schedule is built for."""
    layouts = workload.query_layout, workload.key_layout
    chunks = math.lcm(*(layout.chunks_per_rank for layout in layouts))
    return Shape(layouts[0].world, workload.tensors.query_heads, workload.tensors.key_heads, chunks)
