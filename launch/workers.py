"""Workers on this machine, through torch's elastic agent as a process of its own.

The agent starts one worker a rank, hosts their store, and stops all when one fails. It runs in a session of
its own, so that Ctrl-C reaches it once, from here, and not a second time from the terminal. No worker reads the
terminal: nobody would see a question that it asks.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from ringattn.settings.run import RunConfig

GRACE_SECONDS = 20.0


def command(config: RunConfig, folder: Path, digest: str) -> list[str]:
    """The exact command that starts the workers."""
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={config.launcher.processes}",
        "-m",
        "ringattn.launch.worker",
        str(folder),
        digest,
    ]


def environment(*, threads: int | None, processes: int) -> dict[str, str]:
    """This process's environment, with the OpenMP threads of a worker: two small thread pools on the same
    cores
    run slower than one thread each."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return os.environ | {"OMP_NUM_THREADS": str(threads or max(1, cores // processes))}


def start(arguments: Sequence[str], *, threads: int | None, processes: int) -> int:
    """Run the agent to its end and return its exit code, 128 + the signal's number after a signal.

    SIGINT and SIGTERM are passed on as SIGTERM; what has not ended after `GRACE_SECONDS` is killed.
    """
    agent = subprocess.Popen(
        arguments,
        env=environment(threads=threads, processes=processes),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    received: list[int] = []

    def forward(number: int, _: FrameType | None) -> None:
        if not received:
            received.append(number)
            agent.send_signal(signal.SIGTERM)

    previous = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = _wait(agent, received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _kill_tree(agent)
    return 128 + received[0] if received else code


def _wait(agent: subprocess.Popen[bytes], received: list[int]) -> int:
    while not received:
        try:
            return agent.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            continue
    try:
        return agent.wait(timeout=GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        return 1


def _kill_tree(agent: subprocess.Popen[bytes]) -> None:
    """End an agent that is still there, and the workers it started in sessions of their own."""
    if agent.poll() is not None:
        return
    for pid in [*_children(agent.pid), agent.pid]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    agent.wait()


def _children(pid: int) -> list[int]:
    """All descendants of a process, from Linux's process table."""
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, listing.read_text().split()):
            found += [child, *_children(child)]
    return found
