"""This host's part of a run on several: meet the others, then start the workers here, again where one died."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from ringattn.launch.launchers import agent_environment, check_installed, command, network, write_hostfile
from ringattn.launch.meeting import guest, meet
from ringattn.launch.place import interface_of, node_rank
from ringattn.launch.run_folder import check_free, freeze
from ringattn.launch.workers import STOPPED, outcome, start

from ringattn.settings.launcher import hosts_of
from ringattn.settings.run import RunConfig

MISTAKE = 2
ENDED_BY_SIGNAL = (128 + signal.SIGINT, 128 + signal.SIGTERM)


def start_on_this_host(config: RunConfig, overrides: Sequence[str]) -> int:
    """Take part as the host that this is; the exit code.

    Raises:
        ValueError: what `meet` raises, a launcher that is not installed, a host that is not named.
    """
    launcher, hosts = config.launcher, hosts_of(config.launcher)
    check_installed(launcher.kind)
    node = node_rank(launcher, hosts)
    if node == 0:
        check_free(config)
    # torch's agent starts workers again by itself, all hosts at once; DeepSpeed's launcher does not.
    attempts = 1 + launcher.restarts if launcher.kind == "deepspeed" else 1
    frozen: list[tuple[Path, str]] = []

    def prepare() -> tuple[Path, str]:
        if not frozen:
            folder, digest = freeze(config)
            write_hostfile(config, folder)
            frozen.append((folder, digest))
        return frozen[0]

    code = 1
    for attempt in range(attempts):
        prepared = meet(
            guest(node, hosts, overrides, attempt=attempt),
            address=hosts[0].name,
            port=launcher.port,
            patience=launcher.patience,
            prepare=prepare,
        )
        folder = prepared.folder
        if not (folder / "config.yaml").is_file():
            raise ValueError(
                f"node 0 has prepared the run folder {folder}, and it is not there on this host: put run.folder on a "
                "file system that every host sees."
            )
        print(f"run folder {folder}, node {node} of {len(hosts)}", file=sys.stderr, flush=True)
        code = start(
            command(config, folder, prepared.digest, node=node),
            threads=launcher.threads,
            processes=hosts[node].slots,
            variables=agent_environment(launcher) | chosen_network(launcher.interface, prepared.own_address),
            ask=True,
        )
        code = outcome(code, folder, config.trainer.steps)
        if code in (0, STOPPED, MISTAKE, *ENDED_BY_SIGNAL):
            break
        if attempt + 1 < attempts:
            print(f"a worker died: starting all again, {attempt + 1} of {launcher.restarts}", file=sys.stderr)
    return code


def chosen_network(interface: str | None, address: str | None) -> dict[str, str]:
    """The environment that makes ranks use the interface asked for, or that by which the hosts met: gloo would look up
    this host's name, which is often an address that no other host can reach."""
    if interface is not None:
        return dict(network(interface))
    if address is None or "GLOO_SOCKET_IFNAME" in os.environ:
        return {}
    # Ranks of an IPv4 listener that takes IPv6 as well are shown as ::ffff:a.b.c.d.
    found = interface_of(address.removeprefix("::ffff:"))
    return {"GLOO_SOCKET_IFNAME": found} if found else {}
