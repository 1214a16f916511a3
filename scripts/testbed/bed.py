"""A command on every host, and an end to everything afterwards.

Three things end what a test bed started. `close`, which `with` calls after the work, an exception or a signal. A
watcher, a process of its own that waits for this one to be gone, for when nothing could be called any more (SIGKILL).
And `clean`, for when the watcher was killed too. All of them find processes by the namespace that they are in, so a
worker that moved to a session of its own, as torchrun's do, is found as well.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import IO

from testbed.network import Network, clean, kill_within, new_tag
from testbed.topology import Topology, address

INTERFACE = "own"
MASTER_PORT = 29500  # Each host has all ports to itself.
TIMED_OUT = 124  # As `timeout` of coreutils says it.

# What the other hosts may still say after the first has failed, and what a host has to end by itself.
_GRACE_SECONDS = 3.0
_END_SECONDS = 5.0

_ENTRY = Path(__file__).resolve().parent.parent / "testbed.py"


@dataclass(frozen=True)
class Outcome:
    """How a command ended on the hosts.

    code: 0, the exit code of the first host that failed (128 + the signal's number after a signal), or `TIMED_OUT`.
    failed: that host's number, None where no host failed. codes: of each host; those of hosts that were ended for
    another's failure are in it. logs: the folder of what they printed, a file a host.
    """

    code: int
    failed: int | None
    codes: tuple[int, ...]
    logs: Path


class Testbed:
    """Hosts that are there inside `with`, and gone after it.

    Raises:
        RuntimeError: on entering, where the hosts cannot be built; `obstacle()` says why before.
    """

    __test__ = False  # pytest takes every class named Test... for tests

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.network = Network(topology, new_tag())
        self._watcher: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Testbed:
        clean()
        try:
            # Before there is anything to remove, so that nothing is ever without a watcher.
            self._watcher = subprocess.Popen(
                [sys.executable, "-E", "-S", str(_ENTRY), "watch", self.network.tag],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
            self.network.build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill what still runs on the hosts, and remove them. A second call does nothing."""
        self.network.remove()
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.wait()
            self._watcher = None

    def start(
        self,
        host: int,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        output: IO[bytes] | int | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start one command on one host, in a process group of its own; `output` takes both of its streams."""
        return subprocess.Popen(
            self.network.command(f"host{host}", list(arguments)),
            env={"OMP_NUM_THREADS": "1", **os.environ, "GLOO_SOCKET_IFNAME": INTERFACE, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
            start_new_session=True,
        )

    def run(
        self,
        command: Sequence[str],
        *,
        ranks_per_host: int = 1,
        plain: bool = False,
        logs: Path | None = None,
        timeout: float | None = None,
        show: bool = True,
    ) -> Outcome:
        """Run a command on all hosts to its end. With `show` host 0 prints here; all else goes to files in `logs`, by
        default a temporary folder, which stays.

        One torchrun a host starts `ranks_per_host` ranks of `ringattn VERB ...`, `python FILE ...` or
        `python -m MODULE ...`, and rank r is on host r // ranks_per_host. `plain` starts the command as it is, once a
        host, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set. What else runs on the hosts is ended with it.

        Raises:
            ValueError: no command, one that torchrun cannot start, more than one plain rank on a host.
        """
        hosts = self.topology.num_hosts
        commands = host_commands(command, hosts, ranks_per_host=ranks_per_host, plain=plain)
        folder = Path(tempfile.mkdtemp(prefix="testbed-")) if logs is None else logs
        folder.mkdir(parents=True, exist_ok=True)
        running: list[subprocess.Popen[bytes]] = []
        try:
            for host, arguments in enumerate(commands):
                with contextlib.ExitStack() as stack:
                    quiet = host > 0 or not show
                    output = stack.enter_context((folder / f"host{host}.log").open("wb")) if quiet else None
                    environment = plain_environment(host, hosts) if plain else {}
                    running.append(self.start(host, arguments, environment=environment, output=output))
            failed, timed_out = _wait(running, timeout)
        finally:
            self._end(running)
        codes = tuple(_exit_code(process.returncode) for process in running)
        return Outcome(TIMED_OUT if timed_out else 0 if failed is None else codes[failed], failed, codes, folder)

    def _end(self, running: Sequence[subprocess.Popen[bytes]]) -> None:
        """Ask each host's process group to end, then kill whatever is left on the hosts."""
        for process in running:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + _END_SECONDS
        while time.monotonic() < deadline and any(process.poll() is None for process in running):
            time.sleep(0.02)
        # These by themselves as well: one that has only just been started may not be in its namespace yet.
        for process in running:
            process.kill()
        kill_within([self.network.namespace(host) for host in self.topology.hosts])
        for process in running:
            process.wait()


def host_commands(command: Sequence[str], hosts: int, *, ranks_per_host: int, plain: bool) -> list[list[str]]:
    """What each host starts. Raises ValueError, see `Testbed.run`."""
    if not command:
        raise ValueError(
            "there is no command to run: put it after --, as in `run --hosts 2 ... -- python my_script.py`"
        )
    if ranks_per_host < 1:
        raise ValueError(f"a host runs at least one rank, not {ranks_per_host}: change --ranks-per-host")
    if plain:
        if ranks_per_host != 1:
            raise ValueError(f"--plain starts one process a host, not {ranks_per_host}: leave --ranks-per-host out")
        return [list(command)] * hosts
    python, program = _torchrun_form(command)
    return [
        [
            python,
            "-m",
            "torch.distributed.run",
            f"--nnodes={hosts}",
            f"--nproc-per-node={ranks_per_host}",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={address(0)}:{MASTER_PORT}",
            "--rdzv-id=testbed",
            # Left to itself, torchrun looks up its own name, which no host can, and every host gives up after 60 s.
            f"--rdzv-conf=is_host={'true' if host == 0 else 'false'}",
            f"--local-addr={address(host)}",
            *program,
        ]
        for host in range(hosts)
    ]


def plain_environment(host: int, hosts: int) -> dict[str, str]:
    """What `init_process_group` reads where there is no torchrun."""
    return {
        "RANK": str(host),
        "WORLD_SIZE": str(hosts),
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": address(0),
        "MASTER_PORT": str(MASTER_PORT),
    }


def _torchrun_form(command: Sequence[str]) -> tuple[str, list[str]]:
    """The interpreter, and what follows torchrun's own options."""
    first, *rest = command
    name = PurePath(first).name
    if name == "ringattn":
        return sys.executable, ["-m", "ringattn", *rest]
    if not name.startswith("python"):
        raise ValueError(
            f"torchrun starts `ringattn VERB`, `python FILE` or `python -m MODULE`, not {first!r}: write the command "
            "as one of these, or start it as it is with --plain"
        )
    # A bare `python` is the one that runs this, whose torch is the one wanted.
    python = first if "/" in first else sys.executable
    if not rest or (rest[0].startswith("-") and (rest[0] != "-m" or len(rest) == 1)):
        raise ValueError(
            f"torchrun starts `python FILE` or `python -m MODULE`, not {' '.join(command[:2])!r}: python's other "
            "options need --plain"
        )
    return python, rest


def _wait(running: Sequence[subprocess.Popen[bytes]], timeout: float | None) -> tuple[int | None, bool]:
    """(the first host that failed, whether the time was over): until all ended, or one failed and a grace is over."""
    failed, failed_at = None, 0.0
    start = time.monotonic()
    while any(process.poll() is None for process in running):
        now = time.monotonic()
        if failed is None:
            failed, failed_at = _first_failed(running), now
        elif now - failed_at > _GRACE_SECONDS:
            return failed, False
        if failed is None and timeout is not None and now - start > timeout:
            return None, True
        time.sleep(0.02)
    return (_first_failed(running) if failed is None else failed), False


def _first_failed(running: Sequence[subprocess.Popen[bytes]]) -> int | None:
    return next((host for host, process in enumerate(running) if process.poll()), None)


def _exit_code(returncode: int) -> int:
    return 128 - returncode if returncode < 0 else returncode
