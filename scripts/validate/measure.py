"""Measures a run's cases: a test bed for each topology, its links first, then every case on it."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import groupby

from testbed import Testbed

from validate.record import Run

# As long as a pass: a shaped link lets a burst pass, which would flatter a shorter transfer (docs/testbed.md).
_TRANSFER_SECONDS = 0.5

_DOCTOR_SECONDS = 600.0
_CASE_SECONDS = 1800.0


def measure(run: Run, *, real_time: bool = False) -> None:
    """Fill the run's folder; a case whose report is there is not measured again. What fails is said and left out.

    real_time: ranks go before whatever else runs on this machine.

    Raises:
        RuntimeError: a bed whose links could not be measured.
    """
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {line}", file=sys.stderr, flush=True)

    with _ahead_of_others(say) if real_time else nullcontext():
        _measure(run, say)
    say("measured")


@contextmanager
def _ahead_of_others(say: Callable[[str], None]) -> Iterator[None]:
    """Real-time priority for what is started inside: hosts share this machine's cores with whatever else runs on it,
    and a rank that is woken late holds up all the others. Passes leave the cores free for most of the time; the
    measurement of kernels does not, and others get a twentieth of them meanwhile."""
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(os.sched_get_priority_min(os.SCHED_RR)))
    except OSError as error:
        say(f"without real-time priority ({error}): what else runs on this machine is in the figures")
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


def _measure(run: Run, say: Callable[[str], None]) -> None:
    missing = [case for case in run.cases if not run.report(case).exists()]
    for bed, cases in groupby(missing, key=lambda case: case.bed):
        say(f"{bed.name}: building")
        with Testbed(bed.topology()) as hosts:
            out = run.cluster_file(bed)
            if not out.exists():
                say(f"{bed.name}: measuring links, kernels and overheads")
                words = ["--seconds", str(_TRANSFER_SECONDS), "--out", str(out)]
                _run(hosts, run, ["ringattn", "doctor", "--links", *words], f"{bed.name}-links")
            for case in cases:
                say(f"{case.name}: {len(run.effort.schedules)} schedules")
                folder = run.report(case).parent
                shutil.rmtree(folder, ignore_errors=True)
                command = ["ringattn", "compare", *run.effort.settings(case), f"cluster={out}", f"folder={folder}"]
                try:
                    _run(hosts, run, command, case.name)
                except RuntimeError as error:
                    say(str(error))


def _run(hosts: Testbed, run: Run, command: Sequence[str], name: str) -> None:
    logs = run.folder / "logs" / name
    limit = _DOCTOR_SECONDS if "doctor" in command else _CASE_SECONDS
    outcome = hosts.run(command, logs=logs, timeout=limit, show=False)
    if outcome.code:
        host = outcome.failed or 0
        log = (logs / f"host{host}.log").read_text(encoding="utf-8", errors="replace").splitlines()
        raise RuntimeError(f"{name}: host {host} ended with {outcome.code}; {logs}: {' '.join(log[-1:])}")
