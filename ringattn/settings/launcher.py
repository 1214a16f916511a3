"""How workers start, and where a run writes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ringattn.settings.hosts import Host, parse_hosts
from ringattn.settings.rules import not_negative, positive


@dataclass(frozen=True, kw_only=True)
class WorkersConfig:
    """Workers on one machine. `threads` per worker (null: cores / processes)."""

    processes: int = 2
    threads: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclass(frozen=True, kw_only=True)
class SlurmConfig:
    """What sbatch is told. `time` as sbatch takes it; `warn` seconds before that the run saves and asks for another
    turn; `gpus` on each node; `options` of sbatch besides, with spaces between; `setup` is a line of shell before the
    run (`module load`). `submit`: false writes the script and submits nothing."""

    nodes: int = 1
    time: str = "24:00:00"
    warn: int = 60
    partition: str | None = None
    account: str | None = None
    gpus: int | None = None
    options: str = ""
    setup: str = ""
    submit: bool = True


@dataclass(frozen=True, kw_only=True)
class LauncherConfig(WorkersConfig):
    """`processes` on each host, started by `kind`; `restarts`: how often they are started again after one died.

    For several hosts (torchrun, deepspeed): `hosts` by name or address, each perhaps with :ranks, or a `hostfile` with
    lines `host slots=8`; the first one is node 0, where the others meet at `port`. `node_rank` and `interface` (of the
    network that the ranks use) are found out where they are null; `patience`: seconds to wait for the other hosts.
    """

    kind: Literal["local", "torchrun", "deepspeed", "slurm"] = "local"
    restarts: int = 0
    hosts: str | None = None
    hostfile: str | None = None
    node_rank: int | None = None
    port: int = 29500
    interface: str | None = None
    patience: float = 600.0
    slurm: SlurmConfig = SlurmConfig()


@dataclass(frozen=True, kw_only=True)
class RunFolderConfig:
    """Where a run writes. An existing folder is refused unless `overwrite` empties it or `resume=auto` goes on in
    it."""

    folder: str
    name: str = "run"
    overwrite: bool = False
    resume: Literal["never", "auto"] = "never"


def hosts_of(launcher: LauncherConfig) -> tuple[Host, ...]:
    """The hosts in the order of their ranks; those of a SLURM job, which gets its hosts later, are numbered."""
    if launcher.kind == "slurm":
        return tuple(Host(f"node{number}", launcher.processes) for number in range(launcher.slurm.nodes))
    if launcher.hosts is None:
        return (Host("localhost", launcher.processes),)
    return parse_hosts(launcher.hosts, slots=launcher.processes)


def num_ranks(launcher: LauncherConfig) -> int:
    """Ranks on all hosts together."""
    return sum(host.slots for host in hosts_of(launcher))


def check_launcher(launcher: LauncherConfig) -> None:
    """The rules that one field's type cannot state; ValueError where one is broken."""
    positive(
        {
            "launcher.processes": launcher.processes,
            "launcher.threads": launcher.threads,
            "launcher.patience": launcher.patience,
            "launcher.slurm.nodes": launcher.slurm.nodes,
            "launcher.slurm.warn": launcher.slurm.warn,
            "launcher.slurm.gpus": launcher.slurm.gpus,
        }
    )
    not_negative({"launcher.restarts": launcher.restarts})
    if not 1024 <= launcher.port <= 65535:
        raise ValueError(
            f"launcher.port is a port that a user's program may take, 1024 to 65535, got {launcher.port}: write for "
            "example launcher.port=29500."
        )
    several = launcher.kind in ("torchrun", "deepspeed")
    named = {"hosts": launcher.hosts, "hostfile": launcher.hostfile, "node_rank": launcher.node_rank}
    given = [name for name, value in named.items() if value is not None]
    if not several and given:
        raise ValueError(
            f"launcher.{given[0]} is for several hosts, and launcher={launcher.kind} "
            + ("gets its hosts from SLURM" if launcher.kind == "slurm" else "starts workers on this one")
            + ": write launcher=torchrun or launcher=deepspeed, or leave it out."
        )
    if several and launcher.hosts is None:
        raise ValueError(
            f"launcher={launcher.kind} starts workers on hosts that it must know, and none is named: write "
            "launcher.hosts=host1,host2 or launcher.hostfile=FILE."
        )
    number = len(hosts_of(launcher))
    if launcher.node_rank is not None and not 0 <= launcher.node_rank < number:
        raise ValueError(
            f"launcher.node_rank counts the hosts from 0 to {number - 1}, got {launcher.node_rank} for {number} hosts "
            f"({launcher.hosts}): write the place of this host in that list."
        )
    if not re.fullmatch(r"(\d+-)?\d+(:\d\d?){0,2}", launcher.slurm.time):
        raise ValueError(
            "launcher.slurm.time is a limit as sbatch takes it (minutes, hours:minutes:seconds, "
            f"days-hours:minutes:seconds), got {launcher.slurm.time!r}: write for example "
            "launcher.slurm.time=1-00:00:00."
        )
    if "\n" in launcher.slurm.options + launcher.slurm.setup:
        raise ValueError("launcher.slurm.options and launcher.slurm.setup are one line each: put && between commands.")


def check_run_folder(run: RunFolderConfig) -> None:
    """The rules that one field's type cannot state; ValueError where one is broken."""
    if run.overwrite and run.resume == "auto":
        raise ValueError(
            "run.overwrite=true empties the run folder and run.resume=auto goes on in it: write one of them, not both."
        )
