"""`python scripts/testbed.py COMMAND`. Exit code 2: a mistake in the input, or a machine that cannot do it."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from testbed import topology as topologies
from testbed.bed import TIMED_OUT, Outcome, Testbed, host_commands
from testbed.flows import measure
from testbed.network import clean, obstacle, watch
from testbed.topology import Kind, Topology, parse_kind, parse_rate

_TAIL_LINES = 60  # torchrun says 40 of its own after the reason


class Stopped(BaseException):
    """A signal asked for an end; `number` says which."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    split = words.index("--") if "--" in words else len(words)
    options = _parser().parse_args(words[:split])
    command = words[split + 1 :]
    _stop_once()
    try:
        if options.command == "run":
            return _run(options, command)
        if options.command == "describe":
            print(json.dumps(_topology(options).describe(), indent=1))
            return 0
        if options.command == "check":
            return _check()
        if options.command == "measure":
            return _measure([parse_rate(rate) for rate in options.rates.split(",")], options.seconds)
        if options.command == "watch":
            watch(options.tag)
            return 0
        return _clean()
    except (ValueError, RuntimeError) as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 2
    except Stopped as stop:
        return 128 + stop.number


def _stop_once() -> None:
    """SIGINT, SIGTERM and SIGHUP become an exception, once: taking things down is not interrupted by a second."""
    received: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        if not received:
            received.append(number)
            raise Stopped(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="testbed.py", description="Several hosts on one machine, and any command across them."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="build hosts, run what follows -- across them, take them down",
        usage="%(prog)s --hosts N --rate RATE [options] -- COMMAND ...",
        description=topologies.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    describe = commands.add_parser("describe", help="print hosts, links and routes as JSON")
    for parser_ in (run, describe):
        parser_.add_argument("--hosts", type=int, required=True, help="how many")
        parser_.add_argument("--topology", default=Kind.MESH.value, help="mesh (default), switch or two-level")
        parser_.add_argument("--rate", required=True, help="of a link, in each direction: 200Mbit, 1.5Gbit, 25MB")
        parser_.add_argument("--inside", type=int, help="two-level: hosts of a group")
        parser_.add_argument("--between", help="two-level: rate of a group's uplink, in each direction")
    run.add_argument("--ranks-per-host", type=int, default=1, help="what torchrun starts on each host (default 1)")
    run.add_argument("--plain", action="store_true", help="start the command as it is, without torchrun")
    run.add_argument("--logs", type=Path, help="folder for the output of hosts 1, 2, ... (default: a temporary one)")
    run.add_argument("--timeout", type=float, help=f"seconds, after which all is ended with exit code {TIMED_OUT}")
    commands.add_parser("check", help="say whether network namespaces work here, and if not, why")
    measured = commands.add_parser("measure", help="how near TCP flows come to the rates, on each topology")
    measured.add_argument("--rates", default="50Mbit,100Mbit,200Mbit,500Mbit", help="default: %(default)s")
    measured.add_argument("--seconds", type=float, default=2.0, help="of each measurement (default %(default)s)")
    commands.add_parser("clean", help="remove what killed runs left behind; those of live runs stay")
    commands.add_parser("watch").add_argument("tag")  # started by a test bed itself
    return parser


def _topology(options: argparse.Namespace) -> Topology:
    return Topology(
        parse_kind(options.topology),
        options.hosts,
        parse_rate(options.rate),
        inside=options.inside,
        between=None if options.between is None else parse_rate(options.between),
    )


def _run(options: argparse.Namespace, command: Sequence[str]) -> int:
    topology = _topology(options)
    # Before anything is built: a mistake costs no time.
    host_commands(command, topology.num_hosts, ranks_per_host=options.ranks_per_host, plain=options.plain)
    if reason := obstacle():
        raise RuntimeError(reason)
    with Testbed(topology) as bed:
        logs = options.logs or Path(tempfile.mkdtemp(prefix="testbed-"))
        try:
            outcome = bed.run(
                command,
                ranks_per_host=options.ranks_per_host,
                plain=options.plain,
                logs=logs,
                timeout=options.timeout,
            )
        except Stopped as stop:
            print(f"testbed: stopped by {stop}; what the hosts printed is in {logs}", file=sys.stderr)
            raise
    if outcome.code:
        _explain(outcome, options.timeout)
    elif options.logs is None:
        shutil.rmtree(logs)
    return outcome.code


def _explain(outcome: Outcome, timeout: float | None) -> None:
    if outcome.failed is None:
        what = f"not done after {timeout:g} s"
    else:
        what = f"host {outcome.failed} was the first to fail, with exit code {outcome.code}"
        log = outcome.logs / f"host{outcome.failed}.log"
        if log.exists():
            print(*log.read_text(errors="replace").splitlines()[-_TAIL_LINES:], sep="\n", file=sys.stderr)
    print(f"testbed: {what}; what the hosts printed is in {outcome.logs}", file=sys.stderr)


def _check() -> int:
    if reason := obstacle():
        print(f"testbed: {reason}", file=sys.stderr)
        return 2
    print("testbed: network namespaces and shaped links work here")
    return 0


def _clean() -> int:
    removed = clean()
    print(f"testbed: removed {', '.join(removed)}" if removed else "testbed: there was nothing to remove")
    return 0


def _measure(rates: Sequence[float], seconds: float) -> int:
    """A row for each pattern of flows: what its flows got together, over what their links are asked to carry."""
    if reason := obstacle():
        raise RuntimeError(reason)
    print(f"| {'payload over nominal rate':38} | " + " | ".join(f"{rate * 8e-6:5g} Mbit/s" for rate in rates) + " |")
    print("|---|" + "---|" * len(rates), flush=True)
    for label, make, flows, links in _PATTERNS:
        cells = []
        for rate in rates:
            with Testbed(make(rate)) as bed:
                cells.append(f"{sum(measure(bed, flows, seconds=seconds)) / (rate * links):12.3f}")
        print(f"| {label:38} | " + " | ".join(cells) + " |", flush=True)
    return 0


def _mesh(rate: float) -> Topology:
    return Topology.mesh(3, rate=rate)


def _switch(rate: float) -> Topology:
    return Topology.switch(4, rate=rate)


def _two_level(rate: float) -> Topology:
    return Topology.two_level(4, inside=2, rate=2 * rate, between=rate)


# What is measured: flows as (from host, to host), and how many directions of links they fill.
_PATTERNS: tuple[tuple[str, Callable[[float], Topology], list[tuple[int, int]], int], ...] = (
    ("mesh, one flow", _mesh, [(0, 1)], 1),
    ("mesh, four flows on one link", _mesh, [(0, 1)] * 4, 1),
    ("mesh, both directions of a link", _mesh, [(0, 1), (1, 0)], 2),
    ("mesh, both directions of three links", _mesh, [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)], 6),
    ("switch, one flow", _switch, [(0, 1)], 1),
    ("switch, three hosts to one", _switch, [(1, 0), (2, 0), (3, 0)], 1),
    ("switch, one host to three", _switch, [(0, 1), (0, 2), (0, 3)], 1),
    ("switch, a ring of four", _switch, [(0, 1), (1, 2), (2, 3), (3, 0)], 4),
    ("two-level, inside (at twice the rate)", _two_level, [(0, 1)], 2),
    ("two-level, one flow between", _two_level, [(0, 2)], 1),
    ("two-level, two hosts share an uplink", _two_level, [(0, 2), (1, 3)], 1),
    ("two-level, both directions between", _two_level, [(0, 2), (1, 3), (2, 0), (3, 1)], 2),
)
