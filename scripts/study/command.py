"""The command line of scripts/study.py."""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ringattn.launch.cores import cores

from ringattn.data.progress import Progress
from study.effort import MIXERS, QUICK, QUICK_MIXERS, QUICK_RATIOS, RATIOS, Effort, Point, points_of
from study.record import Run, read_run

SCRIPTS = Path(__file__).resolve().parent.parent
FOLDER = Path("runs/study")


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, then report. Exit code 2: a mistake in the input, or a point that failed."""
    options = _parser().parse_args(arguments)
    try:
        run = read_run(options.out) if options.report else _trained(options)
        report(run)
    except (ValueError, RuntimeError) as error:
        print(f"study: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nstudy: stopped; the same command goes on with what is left in {options.out}", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="study.py", description="Recall and language loss of hybrids, by ratio.")
    parser.add_argument("--mixers", help=f"with commas between; default {','.join(MIXERS)}")
    parser.add_argument("--ratios", help=f"of linear to full layers, pure or full; default {','.join(RATIOS)}")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder, which is filled up; default %(default)s")
    parser.add_argument("--quick", action="store_true", help="two mixers, three ratios, too few steps to learn")
    parser.add_argument("--report", action="store_true", help="train nothing: report what the folder has")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="points at once, one core each; default: all")
    sizes = parser.add_argument_group("sizes")
    for field in dataclasses.fields(Effort):
        default = field.default
        many = isinstance(default, tuple)
        sizes.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=_numbers if many else type(default),
            metavar="N,N,..." if many else "N" if isinstance(default, int) else "X",
            help=f"default {','.join(map(str, default)) if isinstance(default, tuple) else default}",
        )
    return parser


def _numbers(words: str) -> tuple[int, ...]:
    return tuple(int(word) for word in words.split(",") if word)


def _names(words: str | None, default: Sequence[str]) -> Sequence[str]:
    return default if words is None else [word.strip() for word in words.split(",") if word.strip()]


def _trained(options: argparse.Namespace) -> Run:
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(Effort)}
    effort = dataclasses.replace(
        QUICK if options.quick else Effort(), **{name: value for name, value in given.items() if value is not None}
    )
    mixers, ratios = (QUICK_MIXERS, QUICK_RATIOS) if options.quick else (MIXERS, RATIOS)
    points = points_of(_names(options.mixers, mixers), _names(options.ratios, ratios), effort.layers)
    if options.jobs < 1:
        raise ValueError(f"--jobs is how many points are trained at once, at least 1, got {options.jobs}")
    if effort.text != "none":
        from study.tasks import Text

        Text.read(effort)
    _check_sizes(effort, points)
    run = Run.begin(options.out, effort, points, _hardware()).only(points)
    _train(run, options.jobs)
    return run


def _check_sizes(effort: Effort, points: Sequence[Point]) -> None:
    """ValueError where a mixer can't have them: before hours of others."""
    import torch

    from study.train import make_model

    with torch.device("meta"):
        for mixer in {point.mixer: point for point in points}.values():
            make_model(effort, mixer, effort.vocabulary)


def _train(run: Run, jobs: int) -> None:
    """Each point in a process of its own; a progress line with the time left over all of them."""
    left = run.left()
    if there := len(run.points) - len(left):
        print(f"{there} of {len(run.points)} points are in {run.folder} already", file=sys.stderr)
    if not left:
        return
    lock, running = threading.Lock(), set[subprocess.Popen[str]]()
    stopped = threading.Event()
    with Progress(f"train {len(left)} models", total=len(left) * run.effort.all_steps, unit="steps") as progress:

        def one(point: Point) -> None:
            if stopped.is_set():
                return
            with lock:
                # Asked again: who stopped it has ended all that run.
                if stopped.is_set():
                    return
                process = _start(run, point)
                running.add(process)
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                if line == "step\n":
                    with lock:
                        progress.add(1)
                else:
                    said.append(line)
            code = process.wait()
            with lock:
                running.discard(process)
            if code and not stopped.is_set():
                stopped.set()
                raise RuntimeError(f"{point.words} could not be trained (exit code {code}):\n{''.join(said[-12:])}")

        with ThreadPoolExecutor(jobs) as pool:
            tasks = [pool.submit(one, point) for point in left]
            try:
                for task in tasks:
                    task.result()
            except BaseException:
                stopped.set()
                with lock:
                    for process in running:
                        process.terminate()
                raise


def _start(run: Run, point: Point) -> subprocess.Popen[str]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    path = os.pathsep.join([str(SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-m", "study.train", str(run.folder.absolute()), point.name],
        env={**os.environ, **threads, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _hardware() -> str:
    name = platform.processor() or platform.machine()
    cpus = Path("/proc/cpuinfo")
    if cpus.exists():
        names = [line.split(":", 1)[1].strip() for line in cpus.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    return f"{name}, {cores()} cores, one thread a model"


def report(run: Run) -> None:
    """Print the tables; write report.md, results.json and study.png beside study.json."""
    from study.picture import draw_study
    from study.tables import as_json, told

    found = run.found()
    if not found:
        raise ValueError(f"{run.folder} has no finished point yet: run the same command without --report")
    text = told(run, found)
    print(text)
    (run.folder / "report.md").write_text(text + "\n", encoding="utf-8")
    (run.folder / "results.json").write_text(as_json(run, found) + "\n", encoding="utf-8")
    draw_study(run, found, run.folder / "study.png")
    print(f"\nwrote {', '.join(str(run.folder / name) for name in ('report.md', 'results.json', 'study.png'))}")
