"""`ringattn train --multirun`: one fresh job for each point of what the commas span, one after another.

    ringattn train --multirun trainer.steps=10 schedule=ring,tokenring optimizer.learning_rate=1e-3,3e-4

Every point is checked before the first one starts. Each gets a folder of its own, named by the point, in `run.folder`
(runs/multirun-DATE-TIME unless given); at the end there is one table of all.
"""

from __future__ import annotations

import itertools
import json
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from ringattn.launch.compose import LISTS, compose
from ringattn.launch.run_folder import check_free
from ringattn.launch.workers import STOPPED

from ringattn.report.table import table

_CLOSES = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True)
class Point:
    """One job: what distinguishes it, all its overrides, and its run folder."""

    name: str
    overrides: tuple[str, ...]
    folder: Path


def values(text: str) -> list[str]:
    """What commas part; quotes and brackets keep theirs.

    >>> values("ring,tokenring"), values("'a,b'"), values("[1,2],[3]")
    (['ring', 'tokenring'], ["'a,b'"], ['[1,2]', '[3]'])
    """
    found, quote, open_brackets = [""], "", []
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in _CLOSES:
            open_brackets.append(_CLOSES[character])
        elif open_brackets and character == open_brackets[-1]:
            open_brackets.pop()
        elif character == "," and not open_brackets:
            found.append("")
            continue
        found[-1] += character
    return found


def points(overrides: Sequence[str], *, now: float) -> list[Point]:
    """The jobs in the order in which they run: the last comma changes fastest.

    Raises:
        ValueError: no override has several values, one is empty, or nothing names the folder on several hosts.
    """
    fixed, swept, base = [], [], None
    for override in overrides:
        key, _, text = override.partition("=")
        each = [text] if key in LISTS else values(text)
        if not all(each):
            raise ValueError(f"commas part the values of a setting, and one of {override!r} is empty: write it out.")
        if key == "run.folder":
            base = Path(text.strip("'\"")).expanduser().absolute()
        elif len(each) > 1:
            swept.append([(key, value) for value in each])
        else:
            fixed.append(override)
    if not swept:
        raise ValueError(
            "--multirun runs a job for each of several values, and no setting has several: write for example "
            "schedule=ring,tokenring, or leave --multirun out."
        )
    several = any(word.startswith("launcher=") and word != "launcher=local" for word in fixed)
    if base is None and several:
        raise ValueError(
            "all hosts must find the folders of a multirun, and the time, by which they would be called, is another on "
            "each: write run.folder=..."
        )
    base = base or Path(time.strftime("runs/multirun-%Y%m%d-%H%M%S", time.localtime(now))).absolute()
    found: list[Point] = []
    for chosen in itertools.product(*swept):
        name = "_".join(_plain(f"{_short(key, swept)}-{value}") for key, value in chosen)
        if name in {point.name for point in found}:
            name = f"{name}_{len(found)}"
        words = (*fixed, *(f"{key}={value}" for key, value in chosen), f"run.folder='{base / name}'")
        found.append(Point(name, words, base / name))
    return found


def _short(key: str, swept: list[list[tuple[str, str]]]) -> str:
    """The last part of a key, where that is enough to tell it from the others."""
    last = key.rpartition(".")[2]
    return key if sum(pairs[0][0].rpartition(".")[2] == last for pairs in swept) > 1 else last


def _plain(text: str) -> str:
    """A name that neither a shell nor an override reads anything into."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-")


def run_all(overrides: Sequence[str]) -> int:
    """Run every point; exit code 0 where all ended well, 1 where one did not; a signal's, or `STOPPED`, where one
    ended them all.

    Raises:
        ValueError: a mistake in any point, before the first one starts.
    """
    jobs = points(overrides, now=time.time())
    submitted = False
    for point in jobs:
        try:
            config = compose(point.overrides)
            check_free(config)
            submitted = config.launcher.kind == "slurm"
        except ValueError as error:
            raise ValueError(f"{point.name}: {error}") from error
    ended: dict[str, int] = {}
    received: list[int] = []
    running: list[subprocess.Popen[bytes]] = []

    def forward(number: int, _: FrameType | None) -> None:
        received.append(number)
        for process in running:
            process.send_signal(number)

    previous = {n: signal.signal(n, forward) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        for number, point in enumerate(jobs, start=1):
            print(f"--- {number} of {len(jobs)}: {point.name}", file=sys.stderr, flush=True)
            # In a session of its own, so that Ctrl-C reaches it once, from here.
            running[:] = [
                subprocess.Popen([sys.executable, "-m", "ringattn", "train", *point.overrides], start_new_session=True)
            ]
            ended[point.name] = running[0].wait()
            if received:
                break
    finally:
        for process in running:
            if process.poll() is None:
                process.terminate()
                process.wait()
        for n, handler in previous.items():
            signal.signal(n, handler)
    print(summary(jobs, ended, submitted=submitted))
    if received:
        return STOPPED if received[0] == signal.SIGUSR1 else 128 + received[0]
    return 1 if any(ended.values()) else 0


def summary(jobs: Sequence[Point], ended: dict[str, int], *, submitted: bool = False) -> str:
    """A line a point: held-out loss, tokens a second (the median of the steps after the first) and folder."""
    rows = []
    for point in jobs:
        code = ended.get(point.name)
        if code == 0 and not submitted:
            report = json.loads((point.folder / "perplexity.json").read_text(encoding="utf-8"))
            lines = (point.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
            speeds = [json.loads(line)["tokens_per_second"] for line in lines[1:] or lines]
            cells = [f"{report['loss']:.4f}", f"{statistics.median(speeds):,.0f}"]
        elif code == 0:
            cells = ["submitted", ""]
        else:
            cells = ["not started" if code is None else f"failed (exit code {code})", ""]
        rows.append([point.name, *cells, str(point.folder)])
    return "\n" + table(["point", "held-out loss", "tokens/s", "run folder"], rows)
