"""Kill ranks of a small run with SIGKILL, let the launcher start them again, and compare with a run that nobody killed.

    python scripts/kill_ranks.py                      # 20 kills; some ten minutes on two busy cores
    python scripts/kill_ranks.py --kills 3 --steps 8

Each kill takes a random rank at a random moment after a random step is recorded: in the forward, the backward, the
update or a checkpoint. The same seed draws the same kills. What must hold, or the exit code is 1: `metrics.jsonl` has
every step once; at the same number of ranks, losses and the saved weights are the same bits; a run whose ranks are all
killed half-way and that goes on with another number of ranks has the same losses within 1e-5.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))

from tiny_run import tiny_overrides, write_text  # noqa: E402

TRAIN = [sys.executable, "-m", "ringattn", "train"]
PATIENCE = 300.0  # seconds without a new step, on a busy machine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--other-ranks", type=int, default=3, help="of the run that goes on elsewhere; 0: leave it out")
    parser.add_argument("--every", type=int, default=1, help="steps between checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the runs stay; by default they are removed")
    options = parser.parse_args()
    if options.folder is not None:
        return compare(options, options.folder)
    with tempfile.TemporaryDirectory(prefix="kill-ranks-") as folder:
        return compare(options, Path(folder))


def compare(options: argparse.Namespace, folder: Path) -> int:
    """Run all and print what was found; the exit code."""
    choose = random.Random(options.seed)
    undisturbed, disturbed, moved = (folder / name for name in ("undisturbed", "killed", "moved"))
    say(f"undisturbed: {options.steps} steps on {options.ranks} ranks")
    finish(begin(undisturbed, options, options.ranks))
    wanted = losses(undisturbed)
    plan = sorted(choose.randrange(options.steps - 1) for _ in range(options.kills))
    say(f"killed {options.kills} times, after steps {plan}")
    command = begin(disturbed, options, options.ranks, f"launcher.restarts={options.kills}")
    for number, step in enumerate(plan, start=1):
        say(f"  kill {number}: {kill_one(command, disturbed, step, choose)}")
    finish(command)
    faults = differences("killed", wanted, losses(disturbed), relative=0.0)
    same = weights(undisturbed) == weights(disturbed)
    faults += [] if same else ["killed: the saved weights differ"]
    if options.other_ranks:
        half = options.steps // 2
        say(f"all ranks killed after step {half}, going on with {options.other_ranks}")
        command = begin(moved, options, options.ranks)
        wait_for_step(command, moved, half)
        end(command)
        finish(begin(moved, options, options.other_ranks, "run.resume=auto"))
        faults += differences("moved", wanted, losses(moved), relative=1e-5)
    for fault in faults:
        say(fault)
    if not faults:
        say(f"{options.steps} steps, each once; losses and weights the same bits after {options.kills} kills")
    return 1 if faults else 0


def begin(folder: Path, options: argparse.Namespace, ranks: int, *words: str) -> subprocess.Popen[bytes]:
    """Start `ringattn train` on a tiny model."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "text.txt")
    settings = [word for word in tiny_overrides(folder) if not word.startswith("trainer.steps")]
    settings += [f"trainer.steps={options.steps}", f"launcher.processes={ranks}", "launcher.threads=1"]
    settings += [f"checkpoint.every={options.every}", "checkpoint.keep=2", *words]
    with (folder / "log").open("ab") as log:
        environment = os.environ | {"HF_HUB_OFFLINE": "1"}
        return subprocess.Popen([*TRAIN, *settings], stdout=log, stderr=log, env=environment)


def kill_one(command: subprocess.Popen[bytes], folder: Path, step: int, choose: random.Random) -> str:
    """SIGKILL to one rank of the workers that are there, at a random moment after `step` is recorded."""
    wait_for_step(command, folder, step)
    while True:
        time.sleep(choose.random() * 0.8)
        ranks = workers(command.pid)
        if ranks and newest_line(folder) >= step:
            rank = choose.choice(sorted(ranks))
            os.kill(ranks[rank], signal.SIGKILL)
            reached = newest_line(folder)
            while workers(command.pid).get(rank) == ranks[rank]:
                time.sleep(0.05)
            return f"rank {rank}, after step {reached}"
        if command.poll() is not None:
            raise SystemExit(f"the run ended early, with exit code {command.returncode}: see {folder / 'log'}")


def wait_for_step(command: subprocess.Popen[bytes], folder: Path, step: int) -> None:
    """Until a step is in metrics.jsonl and workers are there to be killed."""
    end_at = time.monotonic() + PATIENCE
    while newest_line(folder) < step or not workers(command.pid):
        if command.poll() is not None or time.monotonic() > end_at:
            end(command)
            raise SystemExit(f"step {step} was not reached: see {folder / 'log'}")
        time.sleep(0.05)


def workers(pid: int) -> dict[int, int]:
    """The processes of a run's workers by their ranks."""
    found = {}
    for child in descendants(pid):
        try:
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            environment = dict(
                pair.split(b"=", 1) for pair in Path(f"/proc/{child}/environ").read_bytes().split(b"\0") if b"=" in pair
            )
        except OSError:
            continue
        if b"ringattn.launch.worker" in words[:4] and b"RANK" in environment:
            found[int(environment[b"RANK"])] = child
    return found


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(word) for word in listing.read_text().split()]
        except OSError:
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found


def end(command: subprocess.Popen[bytes]) -> None:
    """Kill a run, agent and ranks."""
    for pid in [*descendants(command.pid), command.pid]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    command.wait()


def finish(command: subprocess.Popen[bytes]) -> None:
    try:
        code = command.wait(timeout=3600)
    finally:
        end(command)
    if code:
        raise SystemExit(f"a run that should end well ended with exit code {code}: {' '.join(map(str, command.args))}")


def lines(folder: Path) -> list[str]:
    path = folder / "run" / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def newest_line(folder: Path) -> int:
    return len(lines(folder)) - 1


def losses(folder: Path) -> list[tuple[int, float]]:
    import json

    return [(found["step"], found["loss"]) for found in map(json.loads, lines(folder))]


def differences(
    name: str, wanted: list[tuple[int, float]], found: list[tuple[int, float]], *, relative: float
) -> list[str]:
    """In words: steps that are missing or there twice, and losses that differ by more than `relative`."""
    if [step for step, _ in found] != [step for step, _ in wanted]:
        return [f"{name}: the steps are {[step for step, _ in found]}, not {[step for step, _ in wanted]}"]
    return [
        f"{name}: the loss of step {step} is {other!r}, not {loss!r}"
        for (step, loss), (_, other) in zip(wanted, found)
        if abs(other - loss) > relative * abs(loss)
    ]


def weights(folder: Path) -> str:
    path = folder / "run" / "checkpoints" / "latest" / "model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
