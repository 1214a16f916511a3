"""Where this process is: which of the named hosts, behind which network interface, and who holds a port here."""

from __future__ import annotations

import fcntl
import re
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

from ringattn.settings.hosts import Host
from ringattn.settings.launcher import LauncherConfig

_ADDRESS_OF_INTERFACE = 0x8915  # SIOCGIFADDR, netdevice(7)
_LISTENING = "0A"


def node_rank(launcher: LauncherConfig, hosts: Sequence[Host]) -> int:
    """This host's place among the hosts: `launcher.node_rank`, or found by name and address.

    Raises:
        ValueError: none of them is this host, or several are.
    """
    if launcher.node_rank is not None:
        return launcher.node_rank
    here = [number for number, host in enumerate(hosts) if is_here(host.name)]
    if len(here) == 1:
        return here[0]
    named = ", ".join(host.name for host in hosts)
    source = f"the hosts of {launcher.hostfile}" if launcher.hostfile else "launcher.hosts"
    if here:
        raise ValueError(
            f"a host has one place among {source}, but places {here} ({named}) are all this host: say which of them "
            f"this call is with launcher.node_rank={here[0]}."
        )
    raise ValueError(
        f"this host ({socket.gethostname()}) is not among {source} ({named}): start the run on those hosts, or say "
        f"which of them this is with launcher.node_rank=0 to {len(hosts) - 1}."
    )


def is_here(name: str) -> bool:
    """Whether a name or an address is this host's own."""
    own = {socket.gethostname(), socket.getfqdn()}
    if name in own | {word.partition(".")[0] for word in own}:
        return True
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    for family, kind, protocol, _, address in found:
        try:
            # Only an address of this host can be bound to.
            with socket.socket(family, kind, protocol) as probe:
                probe.bind((address[0], 0))
            return True
        except OSError:
            continue
    return False


def interface_of(address: str) -> str | None:
    """The name of the network interface with this IPv4 address; None where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                found = fcntl.ioctl(probe.fileno(), _ADDRESS_OF_INTERFACE, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue
            if socket.inet_ntoa(found[20:24]) == address:
                return name
    return None


def holder(port: int) -> str:
    """` by python (process 123)`: who listens at a TCP port of this host; empty where /proc does not tell."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        path = Path("/proc/net") / table
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            fields = line.split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(handle.readlink()) in inodes for handle in (process / "fd").iterdir()):
                words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
                shown = re.sub(r"\s+", " ", " ".join(words)).strip()
                return f" by process {process.name} ({shown[:80]})"
        except OSError:
            continue
    return ""
