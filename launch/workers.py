"""Workers on this host, through a launcher's process: torch's elastic agent, or DeepSpeed's launcher.

The agent starts one worker a rank, hosts their store, and stops all when one fails. It runs in a session of
its own, so that Ctrl-C reaches it once, from here, and not a second time from the terminal. No worker reads the
terminal: nobody would see a question that it asks.

SIGUSR1 asks the workers themselves to save and leave after the step in progress: the agent then sees a good end, and
starts nothing again. Agents and workers ignore it until a worker listens, and each gets it once, when it does: Python
stops listening before a process ends.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from ringattn.launch.cores import cores
from ringattn.launch.launchers import WORKER

GRACE_SECONDS = 20.0
STOPPED = 75  # EX_TEMPFAIL of sysexits(3): saved, and to be started again


def environment(*, threads: int | None, processes: int) -> dict[str, str]:
    """This process's environment, with the OpenMP threads of a worker: two small thread pools on the same
    cores
    run slower than one thread each."""
    return os.environ | {"OMP_NUM_THREADS": str(threads or max(1, cores() // processes))}


def start_module(module: str, words: Sequence[str], *, threads: int | None, processes: int) -> int:
    """Run `python -m module words` as so many ranks of this machine, under an agent that adds nothing to what a failed
    rank has said; the exit code, as `start` has it."""
    agent = [sys.executable, "-m", "ringattn.launch.agent", "--standalone", f"--nproc-per-node={processes}"]
    return start([*agent, "-m", module, *words], threads=threads, processes=processes)


def joined_command(command: str, arguments: Sequence[str]) -> str:
    """How torchrun was told to start these ranks, `ringattn command arguments`, as far as one of them can tell."""
    each, world = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), int(os.environ["WORLD_SIZE"])
    hosts = f"--nnodes {world // each} " if world > each else ""
    return f"torchrun {hosts}--nproc-per-node {each} -m ringattn {command} {shlex.join(arguments)}".strip()


def start(
    arguments: Sequence[str],
    *,
    threads: int | None,
    processes: int,
    variables: Mapping[str, str] | None = None,
    ask: bool = False,
) -> int:
    """Run the agent to its end and return its exit code, 128 + the signal's number after SIGINT or SIGTERM.

    SIGINT and SIGTERM are passed on to the agent as SIGTERM; or, with `ask`, the workers are asked to leave first, as
    SIGUSR1 always does: on several hosts all of them must leave in the same step. What has not ended after
    `GRACE_SECONDS`, or at a second signal to `ask`, is killed. variables: environment beside this process's own.
    """
    previous = {signal.SIGUSR1: signal.signal(signal.SIGUSR1, signal.SIG_IGN)}
    agent = subprocess.Popen(
        arguments,
        env=environment(threads=threads, processes=processes) | {**(variables or {})},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    received: list[int] = []
    asked: list[int] = []

    def forward(number: int, _: FrameType | None) -> None:
        if not received and not ask:
            agent.send_signal(signal.SIGTERM)
        received.append(number)

    previous |= {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGUSR1, lambda number, _: asked.append(number))
    try:
        code = _wait(agent, received, asked, ask=ask)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _kill_tree(agent)
    return 128 + received[0] if received else code


def outcome(code: int, folder: Path, steps: int) -> int:
    """The exit code of a run whose workers ended with `code`: `STOPPED` where they ended well before the last step."""
    done = [int(path.name.removeprefix("step-")) for path in (folder / "checkpoints").glob("step-[0-9]*")]
    return STOPPED if code == 0 and max(done, default=0) < steps else code


def _wait(agent: subprocess.Popen[bytes], received: list[int], asked: list[int], *, ask: bool) -> int:
    end = float("inf")
    told: set[int] = set()
    while time.monotonic() < end:
        try:
            return agent.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            pass
        if received and end == float("inf"):
            end = time.monotonic() + GRACE_SECONDS
        if ask and len(received) > 1:
            break
        if asked or (ask and received):
            for pid in set(_children(agent.pid)) - told:
                if _is_listening_worker(pid):
                    told.add(pid)
                    _kill(pid, signal.SIGUSR1)
    return 1


def _kill_tree(agent: subprocess.Popen[bytes]) -> None:
    """End an agent that is still there, and the workers it started in sessions of their own."""
    if agent.poll() is not None:
        return
    for pid in [*_children(agent.pid), agent.pid]:
        _kill(pid, signal.SIGKILL)
    agent.wait()


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _is_listening_worker(pid: int) -> bool:
    """Whether a process is a worker that takes SIGUSR1 as a request."""
    process = Path(f"/proc/{pid}")
    try:
        if WORKER.encode() not in (process / "cmdline").read_bytes().split(b"\0")[:4]:
            return False
        caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", (process / "status").read_text(), re.MULTILINE)
    except OSError:
        return False
    return caught is not None and bool(int(caught[1], 16) >> (signal.SIGUSR1 - 1) & 1)


def _children(pid: int) -> list[int]:
    """All descendants of a process, from Linux's process table."""
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, listing.read_text().split()):
            found += [child, *_children(child)]
    return found
