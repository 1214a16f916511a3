"""Hosts as network namespaces, cables as veth pairs, switches as bridges in namespaces of their own.

No interface is left outside the namespaces, so removing these removes everything, and the name of a namespace says
whose it is: testbed-PID-START-RANDOM-NODE, with the process that made it and that process's start time (a pid comes
round again). Inside, interfaces are named for the node at the other end of the cable.

A host has one address, on an interface `own` with no cable, and a route to each peer over the right cable: programs
bind to one interface, and still each pair's bytes take the pair's link.

A direction of a link is shaped where it is sent from, by a token bucket:

- frames of 9,000 bytes, so that headers take 0.7 % of the rate, where 1,500 take 4.4 %;
- a bucket of 8 ms: timers on a busy machine are late by milliseconds now and then, and what the bucket cannot hold is
  lost;
- a peak of 1.03 times the rate beyond the first millisecond: after a pause the full bucket would let a short message
  through at once, and so it gains 3 % at most, and that millisecond;
- a queue of 20 ms, and segments joined up to 18,000 bytes only, not 65,536: two of these wait in the queue at any
  time, which at 50 Mbit/s was 20 ms;
- cubic, on the route, whatever the machine prefers: a namespace may not choose it for itself.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from testbed.topology import Link, Topology, address

PREFIX = "testbed"
MTU = 9000
_JOINED = 2 * MTU
_BURST_SECONDS = 0.008
_PEAK = 1.03
_PEAK_SECONDS = 0.001
_QUEUE_SECONDS = 0.020
_CARRIER_SECONDS = 10.0
_NAME = re.compile(rf"(?P<tag>{PREFIX}-\d+-\d+-[0-9a-f]+)-\w+")


@dataclass(frozen=True)
class Network:
    """Namespaces that are there, of one test bed. `tag` begins all their names."""

    topology: Topology
    tag: str

    def namespace(self, node: str) -> str:
        return f"{self.tag}-{node}"

    def build(self) -> None:
        """Make every node and link, and wait until they carry. Raises RuntimeError with what `ip` or `tc` said."""
        topology = self.topology
        nodes = (*topology.hosts, *topology.switches)
        _batch(["ip"], [f"netns add {self.namespace(node)}" for node in nodes])
        # A bridge is a switch with its cables in it, and without any it is an interface for an address.
        lines = {node: ["link set lo up", "link add own type bridge", "link set own up"] for node in nodes}
        for number, link in enumerate(topology.links):
            left, right = link.ends
            # Indices of their own: the kernel waits up to a second with the carrier of an interface whose index is, by
            # chance, that of its peer in the other namespace.
            index = 100 + 2 * number
            lines[left].append(
                f"link add {right} index {index} mtu {MTU} type veth "
                f"peer name {left} index {index + 1} mtu {MTU} netns {self.namespace(right)}"
            )
        # All cables before anything that names their ends: one end is made from the other node's namespace.
        for node in nodes:
            _batch(["ip", "-n", self.namespace(node)], lines[node])
        for node in nodes:
            _batch(["ip", "-n", self.namespace(node)], self._set_up(node))
            _batch(["tc", "-n", self.namespace(node)], self._shape(node))
        deadline = time.monotonic() + _CARRIER_SECONDS
        for node in nodes:
            while not self._carries(node):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"the links of {node} were not up {_CARRIER_SECONDS:g} s after they were made")
                time.sleep(0.02)

    def _ends(self, node: str) -> list[tuple[str, Link]]:
        """The interfaces of a node, each with its link."""
        return [(link.ends[1 - link.ends.index(node)], link) for link in self.topology.links if node in link.ends]

    def _set_up(self, node: str) -> list[str]:
        hosts = self.topology.hosts
        into = "" if node in hosts else "master own "
        lines = [f"link set {interface} {into}gso_max_size {_JOINED} up" for interface, _ in self._ends(node)]
        if node in hosts:
            mine = address(hosts.index(node))
            lines.append(f"address add {mine}/32 dev own")
            lines += [
                f"route add {address(index)}/32 dev {self.topology.path(node, peer)[1]} src {mine} congctl cubic"
                for index, peer in enumerate(hosts)
                if peer != node
            ]
        return lines

    def _shape(self, node: str) -> list[str]:
        return [
            f"qdisc add dev {interface} root {token_bucket(link.bandwidth)}" for interface, link in self._ends(node)
        ]

    def _carries(self, node: str) -> bool:
        """Whether all cables of a node are up, and its bridge passes frames on."""
        shown = subprocess.run(
            ["ip", "-n", self.namespace(node), "-json", "-details", "link", "show"], capture_output=True, text=True
        )
        interfaces = {entry["ifname"]: entry for entry in json.loads(shown.stdout)}
        for interface, _ in self._ends(node):
            entry = interfaces[interface]
            state = entry["linkinfo"].get("info_slave_data", {}).get("state", "forwarding")
            if entry["operstate"] != "UP" or state != "forwarding":
                return False
        return True

    def command(self, node: str, arguments: list[str]) -> list[str]:
        """`arguments`, inside a node."""
        return ["ip", "netns", "exec", self.namespace(node), *arguments]

    def remove(self) -> None:
        """Kill what runs in the nodes, then remove them and, with them, every link."""
        remove(self.tag)


def token_bucket(bandwidth: float) -> str:
    """The arguments of `tc qdisc add` for `bandwidth` bytes/s."""
    frames = 2 * (MTU + 14)  # with the Ethernet header; one frame must fit, and two keep the sender busy
    burst = max(frames, round(bandwidth * _BURST_SECONDS))
    at_once = max(frames, round(bandwidth * _PEAK_SECONDS))
    queue = max(20 * MTU, round(bandwidth * _QUEUE_SECONDS))
    rate, peak = round(bandwidth * 8), round(bandwidth * 8 * _PEAK)
    return f"tbf rate {rate}bit burst {burst} peakrate {peak}bit mtu {at_once} limit {queue}"


def obstacle() -> str | None:
    """Why namespaces and shaped links cannot be made here, in one line; None where they can."""
    if not sys.platform.startswith("linux"):
        return f"network namespaces need Linux, and this is {sys.platform}"
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            return f"there is no `{tool}` on the PATH: install iproute2"
    if os.geteuid() != 0:
        return "network namespaces need root: run it as root, or with sudo"
    try:
        network = Network(Topology.switch(2, rate=1e6), new_tag())
        try:
            network.build()
        finally:
            network.remove()
    except (OSError, RuntimeError) as error:
        return f"the kernel refuses: {error}"
    return None


def new_tag() -> str:
    """A name for one more test bed of this process."""
    return f"{PREFIX}-{os.getpid()}-{start_time(os.getpid())}-{os.urandom(3).hex()}"


def owner_is_alive(tag: str) -> bool:
    """Whether the process that made a test bed still runs."""
    _, pid, start, _ = tag.split("-")
    return start_time(int(pid)) == int(start)


def start_time(pid: int) -> int | None:
    """When a process began, in clock ticks after boot; None if there is none. A zombie is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def clean() -> list[str]:
    """Remove the test beds whose process is gone; returns their tags. Those of live processes stay."""
    tags = {found["tag"] for name in namespaces() if (found := _NAME.fullmatch(name))}
    dead = {tag for tag in tags if not owner_is_alive(tag)}
    for tag in dead:
        remove(tag)
    return sorted(dead)


def watch(tag: str) -> None:
    """Wait until the process that made a test bed is gone, however it ended, then remove what it left."""
    owner = int(tag.split("-")[1])
    try:
        handle = os.pidfd_open(owner)
    except ProcessLookupError:
        pass
    else:
        # Another process may have the number by now: then the handle is of no use, and the owner is gone.
        if owner_is_alive(tag):
            select.select([handle], [], [])
    remove(tag)
    # A command of the owner's that was under way may have added one since.
    time.sleep(0.5)
    remove(tag)


def remove(tag: str) -> None:
    """Kill what runs in the namespaces of a tag, then remove them. None there is no mistake."""
    mine = [name for name in namespaces() if name.startswith(f"{tag}-")]
    kill_within(mine)
    for name in mine:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def kill_within(names: list[str]) -> None:
    """SIGKILL every process in these namespaces, until there is none: one may start another before it dies."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        pids = [pid for name in names for pid in pids_within(name)]
        if not pids:
            return
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)


def pids_within(name: str) -> list[int]:
    """Processes in a namespace."""
    found = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def namespaces() -> list[str]:
    """The names of all namespaces that test beds made, whoever's."""
    folder = Path("/var/run/netns")
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(PREFIX)) if folder.is_dir() else []


def _batch(program: list[str], lines: list[str]) -> None:
    if not lines:
        return
    done = subprocess.run([*program, "-batch", "-"], input="\n".join(lines) + "\n", text=True, capture_output=True)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise RuntimeError(f"`{' '.join(program)}` said {said[0] if said else f'exit code {done.returncode}'!r}")
