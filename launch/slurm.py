"""A SLURM job: the run is frozen when it is submitted, and each start of the job goes on in the same run folder.

The job has one task a host, which calls torchrun as on any several hosts. Asked to leave (SIGUSR1 before the time
limit, by `--signal`), the ranks save, the tasks leave the file `again`, and the script puts the job back into the
queue: by an exit code of its own, one task would make srun end the others. Where SLURM itself takes the hosts back
(preemption, a host that fails, `scontrol requeue`) it sends SIGTERM, at which the ranks save as well, and requeues the
job by itself.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

from ringattn.launch.launchers import WORKER, agent_environment, rendezvous
from ringattn.launch.run_folder import CONFIG_FILE, check_free, freeze
from ringattn.launch.several import chosen_network
from ringattn.launch.workers import STOPPED, outcome, start

from ringattn.settings.run import RunConfig, load

SCRIPT = "job.sh"
AGAIN = "again"
_PORTS = 1000  # so many jobs one after another have ports of their own


def submit(config: RunConfig) -> int:
    """Freeze the run, write its script and submit it; the exit code.

    Raises:
        ValueError: sbatch is not there, or refuses; what freezing raises.
    """
    wanted = config.launcher.slurm.submit
    if wanted and shutil.which("sbatch") is None:
        raise ValueError(
            "launcher=slurm submits a job with sbatch, which is not on the PATH of this host: type this where SLURM's "
            "commands are, or write launcher.submit=false to get the script alone."
        )
    check_free(config)
    folder, digest = freeze(config)
    place = folder / SCRIPT
    place.write_text(script(config, folder, digest), encoding="utf-8")
    print(f"run folder {folder}", file=sys.stderr, flush=True)
    if not wanted:
        print(f"sbatch {place}")
        return 0
    done = subprocess.run(["sbatch", "--parsable", str(place)], capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise ValueError(
            f"sbatch refused the job ({said[0] if said else f'exit code {done.returncode}'}): the run is frozen, so "
            f"put it right and type `sbatch {place}`, or the same command with run.resume=auto."
        )
    job = done.stdout.strip().partition(";")[0]
    print(f"job {job}")
    print(f"what it prints is in {folder}/slurm-{job}.log", file=sys.stderr, flush=True)
    return 0


def script(config: RunConfig, folder: Path, digest: str) -> str:
    """The batch script; it holds everything, so that `sbatch FILE` later means the same."""
    launcher, slurm = config.launcher, config.launcher.slurm
    options = {
        "job-name": config.run.name,
        "nodes": slurm.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": launcher.threads and launcher.threads * launcher.processes,
        "gpus-per-node": slurm.gpus,
        "time": slurm.time,
        "partition": slurm.partition,
        "account": slurm.account,
        "output": f"{folder}/slurm-%j.log",
        "open-mode": "append",
        "signal": f"USR1@{slurm.warn}",
    }
    lines = [f"#SBATCH --{name}={_word(value)}" for name, value in options.items() if value is not None]
    lines += ["#SBATCH --requeue", *(f"#SBATCH {option}" for option in shlex.split(slurm.options))]
    again = shlex.quote(str(folder / AGAIN))
    task = shlex.join([sys.executable, "-m", "ringattn.launch.slurm", str(folder), digest])
    return "\n".join(
        [
            "#!/bin/bash",
            *lines,
            "",
            *([slurm.setup] if slurm.setup else []),
            'echo "start $((${SLURM_RESTART_COUNT:-0} + 1)) of job $SLURM_JOB_ID on $SLURM_JOB_NODELIST"',
            f"rm -f {again}",
            "srun --kill-on-bad-exit=1 ${SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK} \\",
            f"    {task}",
            "code=$?",
            f"if [ $code -eq 0 ] && [ -e {again} ]; then",
            "    # Saved before the time was over: the rest in another turn.",
            '    scontrol requeue "$SLURM_JOB_ID"',
            "fi",
            "exit $code",
            "",
        ]
    )


def _word(value: object) -> str:
    """sbatch reads quotes as a shell does."""
    text = str(value)
    return text if not set(text) & set(" \t'\"\\#") else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def task(folder: Path, digest: str) -> int:
    """The job's task on one host: call torchrun; the exit code."""
    config, _ = load(folder / CONFIG_FILE)
    launcher = config.launcher
    node, nodes = int(os.environ["SLURM_NODEID"]), int(os.environ["SLURM_NNODES"])
    if nodes != launcher.slurm.nodes:
        raise ValueError(
            f"the run was frozen for {launcher.slurm.nodes} host(s), and the job has {nodes}: submit it with "
            f"launcher.slurm.nodes={nodes} run.resume=auto."
        )
    job, again = os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_RESTART_COUNT", "0")
    # Where srun was called, on the job's first host, which is node 0.
    address = os.environ["SLURM_LAUNCH_NODE_IPADDR"]
    own = socket.gethostname()
    meeting = rendezvous(address, launcher.port + int(job) % _PORTS, node=node, own=own, name=f"{job}-{again}")
    command = [
        *(sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}"),
        *(f"--nproc-per-node={launcher.processes}", f"--max-restarts={launcher.restarts}"),
        *(meeting if nodes > 1 else ["--standalone"]),
        *("-m", WORKER, str(folder), digest, str(node * launcher.processes)),
    ]
    # gloo looks up the name of the host by itself, which SLURM's hosts have.
    variables = agent_environment(launcher) | chosen_network(launcher.interface, None)
    code = start(command, threads=launcher.threads, processes=launcher.processes, variables=variables, ask=True)
    code = outcome(code, folder, config.trainer.steps)
    if code == STOPPED:
        (folder / AGAIN).touch()
        return 0
    return code


def main() -> int:
    # SLURM may warn before there is anybody who listens.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    folder, digest = sys.argv[1:]
    try:
        return task(Path(folder), digest)
    except ValueError as error:
        from ringattn.launch.failure import one_sentence

        print(f"ringattn: {one_sentence(error)}", file=sys.stderr, flush=True)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
