"""What every comparison has around it: folder, cluster, device and process groups before; the report behind."""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from ringattn.launch.about import Place, commit, hardware, host_names, place, versions
from ringattn.launch.compare.settings import Comparing, cluster_of, folder_of
from ringattn.launch.device import choose_device, shared_threads
from ringattn.launch.rank import together

from ringattn.attention import SequenceParallel
from ringattn.measure import RankResult
from ringattn.planner.cluster import Cluster
from ringattn.report.comparison import Comparison, Setup
from ringattn.report.comparison_report import write_report
from ringattn.report.comparison_table import comparison_table

# Where a rank is, and what it found out.
FromRank = tuple[Place, dict[str, RankResult]]


class Stage(NamedTuple):
    """folder, cluster, about_cluster: rank 0's alone, since files are its to read and write; None and "" elsewhere.
    described: the same cluster, on every rank."""

    folder: Path | None
    cluster: Cluster | None
    about_cluster: str
    device: torch.device
    described: Cluster | None


@dataclass(frozen=True)
class Began:
    """load: the processes that ran before. started: ISO 8601, UTC."""

    load: float
    started: str

    @classmethod
    def now(cls) -> Began:
        started = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        return cls(os.getloadavg()[0], started)


def prepare(config: Comparing) -> Stage:
    """Collective.

    Raises:
        Refused: on every rank, where the folder, the cluster or a device do not serve on one.
    """
    rank = dist.get_rank()
    folder, (cluster, about_cluster) = together(
        lambda: (folder_of(config), cluster_of(config)) if rank == 0 else (None, (None, ""))
    )
    device = together(lambda: choose_device(config.launcher.device))
    if device.type == "cpu":
        torch.set_num_threads(config.launcher.threads or shared_threads())
    # All ranks must choose the same for `auto`, and files are rank 0's.
    described = [cluster]
    dist.broadcast_object_list(described, src=0)
    return Stage(folder, cluster, about_cluster, device, described[0])


def make_ranks(config: Comparing, stage: Stage, *, kernel: str = "auto") -> SequenceParallel:
    """What all candidates share: the process groups, and what `auto` plans for."""
    group = None
    if stage.device.type == "cuda":
        group = dist.new_group(backend="nccl", timeout=timedelta(seconds=config.timeout))
    return together(
        lambda: SequenceParallel(
            group,
            "ring",
            config.layout,
            kernel=kernel,
            timeout=config.timeout,
            agreement="first",
            cluster=stage.described,
        )
    )


def gather(found: dict[str, RankResult]) -> list[FromRank] | None:
    """What all ranks found out, on rank 0."""
    gathered: list[FromRank] | None = [(place(), {})] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object((place(), found), gathered)
    return gathered


def setup(
    config: Comparing,
    stage: Stage,
    places: Sequence[Place],
    began: Began,
    *,
    command: str,
    heads: tuple[int, int],
    head_dim: int,
    what: str,
) -> Setup:
    """heads: of queries and of keys. what: the mask, or what else was compared, in words."""
    hosts = host_names(places)
    return Setup(
        ranks=len(hosts),
        hosts=hosts,
        length=config.length,
        batch=config.batch,
        query_heads=heads[0],
        key_heads=heads[1],
        head_dim=head_dim,
        dtype=config.dtype,
        mask=what,
        layout=config.layout,
        repeats=config.repeats,
        cluster=None if stage.cluster is None else stage.cluster.name,
        hardware=hardware(stage.device, load=began.load),
        versions=versions(),
        commit=commit(),
        command=command,
        started=began.started,
    )


def report(comparison: Comparison, stage: Stage) -> Comparison:
    """Write the files, print the table."""
    assert stage.folder is not None, "rank 0 reports"
    files = write_report(comparison, stage.folder)
    print(comparison_table(comparison))
    print(f"\n{stage.about_cluster}")
    load, cores = (float(comparison.setup.hardware[name]) for name in ("load before", "cores"))
    if load > cores:
        print(f"the machine was busy before this began (load {load:.1f} on {cores:.0f} cores): times tell of that too")
    print("\n".join(f"wrote {path}" for path in files), flush=True)
    return comparison


class Teller:
    """Tells of each round, on rank 0 alone."""

    def __init__(self, rank: int, what: str) -> None:
        self.rank = rank
        self(what)

    def __call__(self, line: str) -> None:
        if self.rank == 0:
            print(line, file=sys.stderr, flush=True)
