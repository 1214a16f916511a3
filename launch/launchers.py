"""The commands that start the workers of one host, by launcher.

Each runs `ringattn.launch.worker RUN_FOLDER DIGEST` as often as the host has ranks:

local      torchrun on this machine alone
torchrun   torchrun on each host; the hosts find each other at node 0 (its c10d rendezvous), also after a restart
deepspeed  DeepSpeed's launcher on each host, one call a node, with no ssh
slurm      a batch job whose tasks, one a host, call torchrun (`ringattn.launch.slurm`)
"""

from __future__ import annotations

import importlib.util
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from ringattn.settings.launcher import LauncherConfig, hosts_of
from ringattn.settings.run import RunConfig

HOSTFILE = "hostfile"
WORKER = "ringattn.launch.worker"


def command(config: RunConfig, folder: Path, digest: str, *, node: int = 0) -> list[str]:
    """What host number `node` runs."""
    launcher, hosts = config.launcher, hosts_of(config.launcher)
    program = [str(folder), digest]
    if launcher.kind == "deepspeed":
        return [
            *(sys.executable, "-m", "deepspeed.launcher.runner"),
            # It would give workers an argument that they don't know, and go to the other hosts by ssh.
            *("--no_local_rank", "--no_ssh", f"--node_rank={node}"),
            *(f"--hostfile={folder / HOSTFILE}", f"--master_addr={hosts[0].name}", f"--master_port={launcher.port}"),
            *("--log_level=warning", "--module", WORKER, *program),
        ]
    agent = [sys.executable, "-m", "torch.distributed.run"]
    restarts = [f"--max-restarts={launcher.restarts}"] if launcher.restarts else []
    if launcher.kind == "local":
        return [
            *(*agent, "--standalone", f"--nproc-per-node={launcher.processes}", *restarts, "-m", WORKER, *program),
        ]
    first = sum(host.slots for host in hosts[:node])
    return [
        *(*agent, f"--nnodes={len(hosts)}", f"--nproc-per-node={hosts[node].slots}", *restarts),
        *rendezvous(hosts[0].name, launcher.port, node=node, own=hosts[node].name, name=folder.name),
        # The rendezvous numbers hosts in the order of their addresses; a worker takes the place that was asked for.
        *("-m", WORKER, *program, str(first)),
    ]


def rendezvous(address: str, port: int, *, node: int, own: str, name: str) -> list[str]:
    """torchrun's words for hosts that meet at node 0."""
    endpoint = f"[{address}]" if ":" in address else address
    return [
        *("--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}:{port}", f"--rdzv-id={name}"),
        # Left to itself, torchrun decides by names, which may mean nothing here, and all hosts give up after 60 s.
        *(f"--rdzv-conf=is_host={str(node == 0).lower()}", f"--local-addr={own}"),
    ]


def commands(config: RunConfig, folder: Path, digest: str) -> list[str]:
    """For people: the command of every host, or the job's script."""
    if config.launcher.kind == "slurm":
        from ringattn.launch.slurm import script

        return ["script:\n" + script(config, folder, digest).rstrip()]
    chosen = {**agent_environment(config.launcher), **network(config.launcher.interface)}
    setting = [f"{name}={value}" for name, value in chosen.items()]
    if config.launcher.kind == "local":
        return ["command: " + shlex.join([*setting, *command(config, folder, digest)])]
    return [
        f"command on {host.name} (node {node}): " + shlex.join([*setting, *command(config, folder, digest, node=node)])
        for node, host in enumerate(hosts_of(config.launcher))
    ]


def agent_environment(launcher: LauncherConfig) -> dict[str, str]:
    """torch's agent keeps one store for all starts of the workers, in which gloo would find the addresses of the ranks
    that died: with this, each start gets a store of its own."""
    return {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"} if launcher.restarts and launcher.kind != "deepspeed" else {}


def network(interface: str | None) -> Mapping[str, str]:
    """The environment by which gloo and NCCL use a network interface."""
    return {} if interface is None else {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}


def write_hostfile(config: RunConfig, folder: Path) -> None:
    """The hosts, as DeepSpeed's launcher reads them.

    Raises:
        ValueError: a host is named twice.
    """
    names = [host.name for host in hosts_of(config.launcher)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"DeepSpeed's launcher knows hosts by their names, but {twice[0]} is named {names.count(twice[0])} times: "
            "give each another name or address, or write launcher=torchrun."
        )
    lines = [f"{host.name} slots={host.slots}\n" for host in hosts_of(config.launcher)]
    (folder / HOSTFILE).write_text("".join(lines), encoding="utf-8")


def check_installed(kind: str) -> None:
    """Raises ValueError where a launcher is not there."""
    if kind == "deepspeed" and importlib.util.find_spec("deepspeed") is None:
        raise ValueError(
            "launcher=deepspeed needs the package deepspeed, and it is not there: pip install 'ringattn[deepspeed]', "
            "or write launcher=torchrun."
        )
