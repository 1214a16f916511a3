"""What a measurement was made on and with: hardware, versions, commit."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy
import torch
from ringattn.launch.cores import cores

import ringattn


class Place(NamedTuple):
    """Where a rank is. network: tells apart hosts of one name. clock: ranks with the same one share a clock."""

    host: str
    network: str
    clock: str


def place() -> Place:
    """Of this process. A clock is that of a running kernel, whatever containers there are."""
    network, boot = Path("/proc/self/ns/net"), Path("/proc/sys/kernel/random/boot_id")
    host = socket.gethostname()
    return Place(
        host,
        str(network.stat().st_ino) if network.exists() else "",
        boot.read_text(encoding="utf-8").strip() if boot.exists() else host,
    )


def host_names(places: Sequence[Place]) -> tuple[str, ...]:
    """The host of each rank: its name, with a number where there are several of that name."""
    networks: dict[str, list[str]] = {}
    for host, network, _ in places:
        known = networks.setdefault(host, [])
        if network not in known:
            known.append(network)
    return tuple(
        host if len(networks[host]) == 1 else f"{host} ({networks[host].index(network) + 1})"
        for host, network, _ in places
    )


def hardware(device: torch.device, *, load: float) -> dict[str, str]:
    """Of this host; what joins ranks cannot be seen from here. load: the processes that ran before the measurement."""
    found = {"processor": processor(), "cores": str(cores())}
    if device.type == "cuda":
        names = Counter(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
        found["GPUs"] = ", ".join(f"{number} x {name}" for name, number in names.items())
    else:
        found["threads of a rank"] = str(torch.get_num_threads())
    # Of the minute before: what else ran here is in the times too.
    found["load before"] = f"{load:.1f}"
    found["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    found["interconnect"] = "not known"
    return found


def processor() -> str:
    """Its model's name."""
    listing = Path("/proc/cpuinfo")
    for line in listing.read_text(encoding="utf-8").splitlines() if listing.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Of what the times depend on."""
    found = {
        "ringattn": ringattn.__version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
    }
    return found | ({"CUDA": torch.version.cuda} if torch.version.cuda else {})


def commit() -> str:
    """The checkout's commit, `+changes` behind it where files differ from it; `none` for an installed package."""
    root = Path(str(ringattn.__file__)).resolve().parent.parent
    if not (root / ".git").exists():
        return "none: installed"
    name = _git(root, "describe", "--always", "--tags")
    if not name:
        return "unknown"
    return name + ("+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
