"""Measures a run's cases: a test bed for each topology, its links first, then every case on it."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from itertools import groupby

from testbed import Testbed

from validate.record import Run

_DOCTOR_SECONDS = 600.0
_CASE_SECONDS = 1800.0


def measure(run: Run) -> None:
    """Fill the run's folder; a case whose report is there is not measured again. What fails is said and left out.

    Raises:
        RuntimeError: a bed whose links could not be measured.
    """
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {line}", file=sys.stderr, flush=True)

    missing = [case for case in run.cases if not run.report(case).exists()]
    for bed, cases in groupby(missing, key=lambda case: case.bed):
        say(f"{bed.name}: building")
        with Testbed(bed.topology()) as hosts:
            out = run.cluster_file(bed)
            if not out.exists():
                say(f"{bed.name}: measuring links, kernels and overheads")
                _run(hosts, run, ["ringattn", "doctor", "--links", "--out", str(out)], f"{bed.name}-links")
            for case in cases:
                say(f"{case.name}: {len(run.effort.schedules)} schedules")
                folder = run.report(case).parent
                shutil.rmtree(folder, ignore_errors=True)
                command = ["ringattn", "compare", *run.effort.settings(case), f"cluster={out}", f"folder={folder}"]
                try:
                    _run(hosts, run, command, case.name)
                except RuntimeError as error:
                    say(str(error))
    say("measured")


def _run(hosts: Testbed, run: Run, command: Sequence[str], name: str) -> None:
    logs = run.folder / "logs" / name
    limit = _DOCTOR_SECONDS if "doctor" in command else _CASE_SECONDS
    outcome = hosts.run(command, logs=logs, timeout=limit, show=False)
    if outcome.code:
        host = outcome.failed or 0
        log = (logs / f"host{host}.log").read_text(encoding="utf-8", errors="replace").splitlines()
        raise RuntimeError(f"{name}: host {host} ended with {outcome.code}; {logs}: {' '.join(log[-1:])}")
