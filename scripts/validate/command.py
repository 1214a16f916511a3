"""The command line of scripts/validate.py."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from testbed import obstacle, parse_rate

from validate.cases import Effort, all_cases, choose
from validate.figures import summarize
from validate.measure import measure
from validate.record import Run, read_run
from validate.tables import every_figure, told

RATES = ("50Mbit",)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure or replay, then report. Exit code 2: a mistake in the input, or a machine that cannot do it."""
    options = _parser().parse_args(arguments)
    try:
        run = read_run(options.replay) if options.replay else _measure(options)
        _report(run, options)
    except (ValueError, RuntimeError) as error:
        print(f"validate: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    effort = Effort()
    parser = argparse.ArgumentParser(
        prog="validate.py", description="Predictions against measurements on shaped links."
    )
    parser.add_argument("--quick", action="store_true", help="multi-head attention without a mask alone")
    parser.add_argument("--cases", nargs="+", default=[], metavar="PATTERN", help="as 'mesh-*' or '*-8-2-causal'")
    parser.add_argument("--rates", nargs="+", default=RATES, help=f"of links; default {' '.join(RATES)}")
    parser.add_argument("--length", type=int, default=effort.length, help="tokens in all; default %(default)s")
    parser.add_argument("--repeats", type=int, default=effort.repeats, help="of each schedule; default %(default)s")
    parser.add_argument("--schedules", help="with commas between; default all nine")
    parser.add_argument("--real-time", action="store_true", help="go before all else that runs on this machine")
    parser.add_argument("--out", type=Path, help="folder; one that holds a part of this run is filled up")
    parser.add_argument("--replay", type=Path, metavar="FOLDER", help="measure nothing: predict a folder's cases again")
    parser.add_argument("--store", type=Path, metavar="FOLDER", help="copy what a replay needs, without timelines")
    parser.add_argument("--figures", action="store_true", help="print every figure too")
    return parser


def _measure(options: argparse.Namespace) -> Run:
    for rate in options.rates:
        parse_rate(rate)
    cases = choose(all_cases(options.rates), options.cases, quick=options.quick)
    effort = Effort(length=options.length, repeats=options.repeats)
    if options.schedules:
        effort = dataclasses.replace(effort, schedules=tuple(options.schedules.split(",")))
    effort.config(cases[0])
    if reason := obstacle():
        raise RuntimeError(reason)
    folder = options.out or Path(f"runs/validate-{time.strftime('%Y%m%d-%H%M%S')}")
    run = Run.begin(folder.absolute(), effort, cases)
    measure(run, real_time=options.real_time)
    return run


def _report(run: Run, options: argparse.Namespace) -> None:
    summary = summarize([*run.figures()])
    about = [
        f"{len(run.measured())} cases, measured on {run.date}: {run.effort.length:,} tokens in all, heads of "
        f"{run.effort.head_dim}, float32, medians of {run.effort.repeats} repeats"
    ]
    text = told(summary, about=about)
    print("\n\n".join([text, every_figure(summary)] if options.figures else [text]))
    if options.store:
        run.store(options.store)
    folder = options.store or run.folder
    if not options.replay or options.store:
        (folder / "summary.json").write_text(json.dumps(summary.plain(), indent=1) + "\n", encoding="utf-8")
        (folder / "summary.md").write_text(f"{text}\n\n{every_figure(summary)}\n", encoding="utf-8")
        print(f"\nwrote {folder / 'summary.md'} and {folder / 'summary.json'}")
