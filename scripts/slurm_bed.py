"""A SLURM cluster on this machine, for as long as a command takes: munge, slurmctld and a slurmd for each node.

    apt-get install -y slurm-wlm                    # Debian and Ubuntu; munge comes with it
    python scripts/slurm_bed.py check               # does it work here, and if not, why
    python scripts/slurm_bed.py run -- ringattn train launcher=slurm launcher.slurm.nodes=2 run.folder=/tmp/first
    python scripts/slurm_bed.py clean               # what killed beds left behind

`run` starts the cluster, runs the command, waits until the queue is empty, and takes everything down, also after Ctrl-C
or SIGTERM; after SIGKILL a watching process does. It needs root, and none of the machine's own configuration: all files
are in a temporary folder, all ports are free ones. Nodes are daemons with names of their own on one host. The partition
`high` takes nodes from jobs in `low`, the default, which go back into the queue.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

PREFIX = "slurm-bed-"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "sinfo")
_START_SECONDS = 90.0

CONFIGURATION = """\
ClusterName=bed
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
AuthType=auth/munge
# A job that is requeued waits until its old credential has expired.
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobRequeue=1
KillWait=30
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
{nodes}
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE MaxTime=INFINITE State=UP
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
"""


class SlurmBed:
    """A cluster of `nodes` that is there inside `with`. `environment` makes SLURM's commands talk to it.

    Raises:
        RuntimeError: on entering, where it does not start; `obstacle()` says before what is missing.
    """

    def __init__(self, nodes: int = 2) -> None:
        self.nodes = nodes
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        self.configuration = self.folder / "slurm.conf"
        self.environment = os.environ | {"SLURM_CONF": str(self.configuration)}
        self._watcher: subprocess.Popen[bytes] | None = None
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> SlurmBed:
        clean()
        (self.folder / "owner").write_text(f"{os.getpid()} {start_time(os.getpid())}")
        try:
            self._watcher = subprocess.Popen(
                [sys.executable, "-E", "-S", __file__, "watch", str(self.folder)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill every process of the cluster and its jobs, and remove its files. A second call does nothing."""
        remove(self.folder)
        while self._daemons:
            self._daemons.pop().wait()
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.wait()
            self._watcher = None

    def _start(self) -> None:
        folder, ports = self.folder, free_ports(1 + self.nodes)
        (folder / "state").mkdir()
        key = folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        host, cores = socket.gethostname().partition(".")[0], os.cpu_count() or 1
        nodes = "\n".join(
            f"NodeName=node{number} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cores} State=UNKNOWN"
            for number, port in enumerate(ports[1:])
        )
        text = CONFIGURATION.format(host=host, controller=ports[0], folder=folder, nodes=nodes)
        self.configuration.write_text(text)
        files = [f"--socket={folder}/munge.sock", f"--key-file={key}"]
        files += [f"--pid-file={folder}/munge.pid", f"--log-file={folder}/munge.log", f"--seed-file={folder}/seed"]
        self._daemon("munged", "--foreground", "--force", *files)
        wait_for((folder / "munge.sock").exists, "munged made no socket")
        self._daemon("slurmctld", "-D", "-f", str(self.configuration))
        for number in range(self.nodes):
            self._daemon("slurmd", "-D", "-N", f"node{number}", "-f", str(self.configuration), log=f"slurmd{number}")
        wait_for(lambda: self.ask("sinfo", "-h", "-N", "-p", "low", "-o", "%T") == ["idle"] * self.nodes, self._why)

    def _why(self) -> str:
        logs = [f"{path.name}: {path.read_text(errors='replace')[-600:]}" for path in self.folder.glob("*.log")]
        return "the nodes did not become idle; " + "\n".join(logs)

    def _daemon(self, *words: str, log: str = "") -> None:
        with (self.folder / f"{log or words[0]}.log").open("ab") as output:
            place = {"env": self.environment, "cwd": self.folder}
            self._daemons.append(
                subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **place)
            )

    def ask(self, *words: str) -> list[str]:
        """What one of SLURM's commands prints, by line; nothing where it fails."""
        done = subprocess.run(words, capture_output=True, text=True, env=self.environment)
        return done.stdout.split("\n")[:-1] if done.returncode == 0 else []

    def job(self, number: str) -> dict[str, str]:
        """What `scontrol show job` knows of one."""
        words = " ".join(self.ask("scontrol", "-o", "show", "job", number)).split()
        return dict(word.split("=", 1) for word in words if "=" in word)


def obstacle() -> str | None:
    """Why no cluster can be started here, in one line; None where one can."""
    for program in PROGRAMS:
        if shutil.which(program) is None:
            return f"there is no `{program}` on the PATH: apt-get install -y slurm-wlm"
    return None if os.geteuid() == 0 else "its daemons need root: run it as root, or with sudo"


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [each.getsockname()[1] for each in sockets]


def wait_for(condition: object, complaint: object, seconds: float = _START_SECONDS) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        if time.monotonic() > end:
            raise RuntimeError(complaint() if callable(complaint) else str(complaint))
        time.sleep(0.2)


def start_time(pid: int) -> int | None:
    """When a process began, in clock ticks after boot; None if there is none, or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def processes_of(folder: Path) -> list[int]:
    """The daemons of a cluster, its jobs, and whatever else was started with its configuration."""
    mark = f"SLURM_CONF={folder}/slurm.conf".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            inside = mark in (path / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if inside and int(path.name) != os.getpid() and start_time(int(path.name)):
            found.append(int(path.name))
    return found


def remove(folder: Path) -> None:
    """Kill what belongs to a cluster until nothing does, and remove its files."""
    end = time.monotonic() + 20.0
    while (pids := processes_of(folder)) and time.monotonic() < end:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


def owner(folder: Path) -> tuple[int, int] | None:
    """The process that made a cluster, if it still runs."""
    try:
        pid, began = map(int, (folder / "owner").read_text().split())
    except (OSError, ValueError):
        return None
    return (pid, began) if start_time(pid) == began else None


def clean() -> list[str]:
    """Remove the clusters whose process is gone; returns their folders."""
    made = [path for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*") if (path / "owner").exists()]
    dead = [path for path in made if owner(path) is None]
    for folder in dead:
        remove(folder)
    return [str(folder) for folder in dead]


def watch(folder: Path) -> None:
    """Wait until the process that made a cluster is gone, however it ended, then remove what it left."""
    found = owner(folder)
    if found is not None:
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(found[0])
            if owner(folder) is not None:
                select.select([handle], [], [])
    remove(folder)


def run(command: Sequence[str], *, nodes: int, timeout: float) -> int:
    """Run a command against a cluster, wait for its jobs, and print what they wrote; the command's exit code."""
    with SlurmBed(nodes) as bed:
        code = subprocess.run(command, env=bed.environment).returncode
        end, shown = time.monotonic() + timeout, ""
        while jobs := bed.ask("squeue", "-h", "-o", "%i %T %M %R"):
            if time.monotonic() > end:
                print(f"slurm_bed: not done after {timeout:g} s: {jobs}", file=sys.stderr)
                return 124
            states = "; ".join(f"job {line.split()[0]} {line.split()[1].lower()}" for line in jobs)
            if states != shown:
                print(states, file=sys.stderr, flush=True)
                shown = states
            time.sleep(1.0)
        for line in bed.ask("scontrol", "-o", "show", "job"):
            job = dict(word.split("=", 1) for word in line.split() if "=" in word)
            print(f"job {job['JobId']}: {job['JobState'].lower()}, exit code {job['ExitCode']}, {job['StdOut']}")
        return code


def main() -> int:
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["run", "check", "clean", "watch"])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds for the jobs")
    options = parser.parse_args(words[:split])
    if options.verb == "watch":
        watch(options.folder)
        return 0
    if options.verb == "clean":
        print(f"slurm_bed: removed {', '.join(clean()) or 'nothing'}")
        return 0
    reason = obstacle()
    if reason or (options.verb == "run" and not words[split + 1 :]):
        print(f"slurm_bed: {reason or 'there is no command to run: put it after --'}", file=sys.stderr)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        if options.verb == "check":
            with SlurmBed(options.nodes) as bed:
                print(f"slurm_bed: {', '.join(bed.ask('sinfo', '-h', '-N', '-p', 'low', '-o', '%N %T'))}")
            return 0
        return run(words[split + 1 :], nodes=options.nodes, timeout=options.timeout)
    except RuntimeError as error:
        print(f"slurm_bed: {error}", file=sys.stderr)
        return 2


def _stop(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    raise SystemExit(main())
