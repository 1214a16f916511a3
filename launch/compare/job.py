"""A comparison on the ranks that there are: prepare, measure, put together, report."""

from __future__ import annotations

import datetime
import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from ringattn.launch.compare.about import Place, commit, hardware, host_names, place, versions
from ringattn.launch.compare.assemble import assemble, expected_of
from ringattn.launch.compare.input import Reference, make_shards
from ringattn.launch.compare.settings import ERROR_LENGTH, CompareConfig, cluster_of, folder_of
from ringattn.launch.device import choose_device, shared_threads
from ringattn.launch.rank import Refused, together
from ringattn.launch.schedules import load

from ringattn.attention import SequenceParallel
from ringattn.measure import RankResult, Shards, measure
from ringattn.planner.choose import AUTO
from ringattn.planner.cluster import Cluster
from ringattn.planner.predict import shape_of
from ringattn.report.comparison import Comparison, Result, Setup
from ringattn.report.comparison_report import write_report
from ringattn.report.comparison_table import comparison_table
from ringattn.runtime.agreement import Disagreement
from ringattn.runtime.arguments import Options
from ringattn.schedule.value import Schedule

# Where a rank is, and what it found out.
_FromRank = tuple[Place, dict[str, RankResult]]


@dataclass(frozen=True)
class _Candidate:
    """A schedule that can be run: `sp` runs it, `schedules` are those of its `forward` and its `backward`. name: in the
    report; that of `auto` says what was chosen."""

    name: str
    sp: SequenceParallel
    schedules: dict[str, Schedule]


def compare(config: CompareConfig, *, command: str) -> Comparison | None:
    """Run, report and print; the comparison on rank 0, None elsewhere. Collective over torch's default group, a gloo
    one with `config.ranks` ranks.

    Raises:
        Refused: on every rank, where the folder, the cluster, a device or the settings do not serve on one.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    folder, (cluster, about_cluster) = together(
        # Files are rank 0's to read and write.
        lambda: (folder_of(config), cluster_of(config)) if rank == 0 else (None, (None, ""))
    )
    device = together(lambda: choose_device(config.launcher.device))
    if device.type == "cpu":
        torch.set_num_threads(config.launcher.threads or shared_threads())
    # All ranks must choose the same for `auto`, and files are rank 0's.
    described = [cluster]
    dist.broadcast_object_list(described, src=0)
    base = _make_ranks(config, device, described[0])
    shards = make_shards(config, device, rank=rank, world=world)
    candidates, skipped = _candidates(config, base, shards)
    wanted = config.length <= ERROR_LENGTH if config.error is None else config.error
    check = Reference(config, rank=rank, world=world).error if wanted and candidates else None
    say = _Teller(rank, f"{len(candidates)} of {len(config.named)} schedules over {world} ranks")
    load = os.getloadavg()[0]
    started = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    found = measure(
        {name: candidate.sp for name, candidate in candidates.items()},
        shards,
        repeats=config.repeats,
        warmup=config.warmup,
        recorded=config.recorded,
        check=check,
        say=say,
    )
    gathered: list[_FromRank] | None = [(place(), {})] * world if rank == 0 else None
    dist.gather_object((place(), found), gathered)
    if gathered is None:
        return None
    assert folder is not None
    hosts = host_names([where for where, _ in gathered])
    results = _results(config, candidates, skipped, gathered, cluster)
    on = hardware(device, load=load)
    comparison = Comparison(setup=_setup(config, hosts, cluster, on, command, started), results=results)
    _report(comparison, folder, about_cluster)
    return comparison


def _make_ranks(config: CompareConfig, device: torch.device, cluster: Cluster | None) -> SequenceParallel:
    """What all candidates share: the process groups, and what `auto` plans for."""
    group = None
    if device.type == "cuda":
        group = dist.new_group(backend="nccl", timeout=timedelta(seconds=config.timeout))
    return together(
        lambda: SequenceParallel(
            group,
            "ring",
            config.layout,
            kernel=config.kernel,
            timeout=config.timeout,
            agreement="first",
            cluster=cluster,
        )
    )


def _candidates(
    config: CompareConfig, base: SequenceParallel, shards: Shards
) -> tuple[dict[str, _Candidate], dict[str, str]]:
    """The schedules that can be run, and why others cannot, by name; on every rank the same."""
    found: dict[str, _Candidate] = {}
    skipped: dict[str, str] = {}
    for spec in config.named:
        name = config.label(spec)
        try:
            candidate = together(partial(_candidate, spec, config, base, shards))
            if ".py" in name:
                # A file of one's own need not say the same on every host.
                base.agree({f"the {side}'s schedule": s.digest()[:12] for side, s in candidate.schedules.items()})
        except (Refused, Disagreement) as refusal:
            skipped[name] = str(refusal)
        else:
            found[name] = candidate
    return found, skipped


def _candidate(spec: str, config: CompareConfig, base: SequenceParallel, shards: Shards) -> _Candidate:
    shape = shape_of(config.workload(base.world))
    forward, backward = (
        load(name, shape) if ".py" in name else name
        for name in (spec, spec if config.backward == "same" else config.backward)
    )
    # The layout of this length and mask: by its name the object would cut `balanced` without the mask.
    layout = config.workload(base.world).query_layout
    sp = base.under(forward, layout, backward=backward)
    mask = config.mask
    call = sp.call(
        shards.query,
        shards.key,
        shards.value,
        Options(causal=mask.causal, window=mask.window, documents=mask.documents, length=config.length),
    )
    schedules = {"forward": call.forward_plan.schedule, "backward": call.backward_plan.schedule}
    name = config.label(spec)
    if AUTO in (spec, config.backward):
        name = f"{name}: {' / '.join(dict.fromkeys(call.names))}"
    return _Candidate(name, sp, schedules)


def _results(
    config: CompareConfig,
    candidates: dict[str, _Candidate],
    skipped: dict[str, str],
    gathered: list[_FromRank],
    cluster: Cluster | None,
) -> tuple[Result, ...]:
    """In the order in which schedules were named."""
    clocks, workload = [where.clock for where, _ in gathered], config.workload(len(gathered))
    found = {name: Result(schedule=name, skipped=reason) for name, reason in skipped.items()}
    for name, candidate in candidates.items():
        ranks = [of_rank[name] for _, of_rank in gathered]
        expected = expected_of(candidate.schedules, workload, cluster)
        found[name] = assemble(candidate.name, expected, ranks, clocks=clocks, cluster=cluster)
    return tuple(found[config.label(spec)] for spec in config.named)


def _setup(
    config: CompareConfig,
    hosts: tuple[str, ...],
    cluster: Cluster | None,
    on: dict[str, str],
    command: str,
    started: str,
) -> Setup:
    return Setup(
        ranks=len(hosts),
        hosts=hosts,
        length=config.length,
        batch=config.batch,
        query_heads=config.query_heads,
        key_heads=config.key_heads,
        head_dim=config.head_dim,
        dtype=config.dtype,
        mask=config.mask.describe(),
        layout=config.layout,
        repeats=config.repeats,
        cluster=None if cluster is None else cluster.name,
        hardware=on,
        versions=versions(),
        commit=commit(),
        command=command,
        started=started,
    )


def _report(comparison: Comparison, folder: Path, about_cluster: str) -> None:
    files = write_report(comparison, folder)
    print(comparison_table(comparison))
    print(f"\n{about_cluster}")
    load, cores = (float(comparison.setup.hardware[name]) for name in ("load before", "cores"))
    if load > cores:
        print(f"the machine was busy before this began (load {load:.1f} on {cores:.0f} cores): times tell of that too")
    print("\n".join(f"wrote {path}" for path in files), flush=True)


class _Teller:
    """Tells of each round, on rank 0 alone."""

    def __init__(self, rank: int, what: str) -> None:
        self.rank = rank
        self(what)

    def __call__(self, line: str) -> None:
        if self.rank == 0:
            print(line, file=sys.stderr, flush=True)
