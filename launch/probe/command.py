"""`ringattn doctor --links`: measure links, kernels and overhead, and write them as a cluster file."""

from __future__ import annotations

import argparse
import datetime
import os
import socket
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from ringattn.launch.workers import start_module

from ringattn.sequence.suggest import suggest

HELP = """\
usage: ringattn doctor --links [--ranks N] [--out FILE] [--threads N] [--seconds S] [--quick]

Measure what joins the ranks, how fast attention's kernel is, and what the runtime takes, and write a cluster file
(docs/clusters.md) for planning. Alone it starts ranks on this machine; under torchrun it takes those that are there:

  torchrun --nnodes 2 --nproc-per-node 8 ... -m ringattn doctor --links --out cluster.yaml

  --ranks N    ranks to start on this machine; one a GPU, or 2, unless given
  --out FILE   the file to write; cluster.yaml unless given
  --threads N  of each rank on a CPU; the cores shared evenly unless given
  --seconds S  of each transfer, at least; 0.15 unless given. Links that let a burst pass need longer ones
  --quick      fewer and shorter measurements, for a first look
"""

OPTIONS = ("--links", "--ranks", "--out", "--threads", "--seconds", "--quick", "--help")
_TIMEOUT = 120.0
_SECONDS, _QUICK_SECONDS = 0.15, 0.01


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message[0].lower()}{message[1:]}: see `ringattn doctor --help`")


def run(arguments: Sequence[str]) -> int:
    """Measure alone, or as one of the ranks that torchrun has started; returns the exit code.

    Raises:
        ValueError: a mistake in the arguments, before anything is measured.
    """
    options = _options(arguments)
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        if options.ranks is not None:
            raise ValueError("--ranks is for starting ranks here, and torchrun has started them already: leave it out")
        if int(os.environ["WORLD_SIZE"]) < 2:
            raise ValueError("links join two ranks or more, and torchrun has started one: start more")
        return _measure(options)
    ranks = options.ranks or max(2, _gpus())
    if ranks < 2:
        raise ValueError(f"links join two ranks or more, got --ranks {ranks}: give at least 2")
    if 0 < _gpus() < ranks:
        raise ValueError(f"each rank needs a GPU of its own, and this machine has {_gpus()}: give --ranks {_gpus()}")
    words = ["doctor", "--links", "--out", str(options.out), *["--quick"] * options.quick]
    for name in ("threads", "seconds"):
        value = getattr(options, name)
        words += [] if value is None else [f"--{name}", str(value)]
    return start_module("ringattn", words, threads=options.threads, processes=ranks)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    for word in arguments:
        name = word.partition("=")[0]
        if word.startswith("-") and name not in OPTIONS:
            raise ValueError(
                f"`ringattn doctor --links` has no option {name}{suggest(name, OPTIONS)}; see `ringattn doctor --help`"
            )
    parser = _Parser(prog="ringattn doctor", add_help=False, allow_abbrev=False)
    parser.add_argument("--links", action="store_true")
    parser.add_argument("--ranks", type=int)
    parser.add_argument("--out", type=Path, default=Path("cluster.yaml"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(list(arguments))
    for name in ("ranks", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} is a number of at least 1, got {value}")
    if options.seconds is not None and not 0 < options.seconds <= _TIMEOUT / 10:
        raise ValueError(f"--seconds is a time above 0 and at most {_TIMEOUT / 10:g}, got {options.seconds:g}")
    # Rank 0 writes; its host's folders are the ones that matter.
    parent = options.out.absolute().parent
    if os.environ.get("RANK", "0") == "0" and (options.out.is_dir() or not os.access(parent, os.W_OK)):
        raise ValueError(
            f"--out is the file to write, in a folder that is there and may be written to, got {str(options.out)!r}"
        )
    return options


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _measure(options: argparse.Namespace) -> int:
    from datetime import timedelta

    import torch
    import torch.distributed as dist
    from ringattn.launch.device import choose_device, shared_threads

    from ringattn.runtime.groups import make_groups

    device = choose_device("auto")
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(seconds=_TIMEOUT))
    try:
        groups = make_groups(None, _TIMEOUT)
        assert groups is not None
        if device.type == "cpu":
            torch.set_num_threads(options.threads or shared_threads(groups.control))
        _work(options, groups)
        dist.barrier()
    finally:
        dist.destroy_process_group()
    return 0


def _work(options: argparse.Namespace, groups: Any) -> None:
    from ringattn.launch.probe.compute import accelerator, effort
    from ringattn.launch.probe.links import found_in, measure, small_messages, table
    from ringattn.launch.probe.overhead import overhead
    from ringattn.launch.probe.wire import Wire

    ranks = _places(groups)
    times = 20 if options.quick else 100
    # Many ranks make many transfers; each is then given less time.
    seconds = options.seconds or (_QUICK_SECONDS if options.quick else _SECONDS) * min(1.0, 8 / groups.world)
    wire = Wire(groups, seconds=seconds, repeats=3, timeout=_TIMEOUT)
    began = time.perf_counter()

    def say(line: str) -> None:
        if groups.rank == 0:
            print(f"[{time.perf_counter() - began:5.1f} s] {line}", file=sys.stderr, flush=True)

    say(f"{groups.world} ranks on {len(ranks.hosts)} host(s), {groups.device.type}")
    measured = measure(wire, say)
    say("small messages")
    small = small_messages(wire, times)
    most = max(host.accelerators for host in ranks.hosts)
    chip, names = accelerator(wire, effort(groups.device, quick=options.quick), most, say)
    say("steps of next to no work")
    launch = min(kernel.launch for kernel in chip.attention.values())
    runtime, latency = overhead(wire, small, launch, times=times)
    if groups.rank == 0:
        found = found_in(measured, ranks, latency)
        print("\n".join(["", *table(measured, found[0])]))
        _write(options, ranks, measured, found, chip, names, runtime)


def _places(groups: Any) -> Any:
    """The host of each rank. Hosts are told apart by name and network namespace, so that containers are hosts too."""
    import torch.distributed as dist
    from ringattn.launch.probe.graphs import Ranks

    from ringattn.planner.cluster_links import Host

    namespace = Path("/proc/self/ns/net")
    own = (socket.gethostname(), namespace.stat().st_ino if namespace.exists() else 0)
    everyone: list[tuple[str, int]] = [own] * groups.world
    dist.all_gather_object(everyone, own, group=groups.control)
    counts = Counter(everyone)
    if everyone != [host for host, number in counts.items() for _ in range(number)]:
        raise ValueError(
            "ranks are numbered host by host in a cluster file, and these are not: start them with torchrun, which "
            "numbers them so"
        )
    return Ranks([Host(f"node{index}", number) for index, number in enumerate(counts.values())])


def _write(
    options: argparse.Namespace,
    ranks: Any,
    measured: Sequence[Any],
    found: Sequence[Any],
    chip: Any,
    names: dict[str, str],
    runtime: Any,
) -> None:
    from ringattn.planner.cluster_file import describe_accelerator, read_cluster, write_cluster
    from ringattn.planner.units import BANDWIDTH, TIME

    best, *others = found
    offs = [abs(expected / each.seconds - 1) for each, expected in zip(measured, best.predicted)]
    fit = f"off by {statistics.median(offs):.0%} in the median, {max(offs):.0%} at most, of {len(offs)} measurements"
    word = f"measured with ringattn doctor --links{' --quick' * options.quick}, {datetime.date.today().isoformat()}"
    busy = f"{word}, {ranks.world} ranks at work at once"
    links = []
    for link in best.links:
        written = {**link, "latency": TIME.write(link["latency"], digits=3)}
        written |= {key: BANDWIDTH.write(link[key], digits=4) for key in ("bandwidth", "back") if key in link}
        links.append(written)
    kernel_words = ", ".join(f"{name} for {dtype}" for dtype, name in names.items())
    description = {
        "name": options.out.stem,
        "about": f"{ranks.world} ranks on {len(ranks.hosts)} host(s), joined as by {best.shape}; {fit}.",
        "hosts": [host._asdict() for host in ranks.hosts],
        "accelerator": describe_accelerator(chip, digits=4),
        "links": links,
        "overhead": {name: TIME.write(value, digits=3) for name, value in asdict(runtime).items()},
        "sources": {
            "accelerator": f"{busy}; attention by {kernel_words}, 8 heads of 64",
            "links": f"{word}; {best.shape}, {fit}",
            "overhead": f"{word}; of a ring's steps with 8 tokens a rank",
        },
    }
    write_cluster(description, options.out)
    read_cluster(options.out)
    _report(options.out, best, others, fit, description)


def _report(out: Path, best: Any, others: Sequence[Any], fit: str, description: dict[str, Any]) -> None:
    chip = description["accelerator"]
    print(f"\njoined as by: {best.shape}\n  {fit}")
    for other in others:
        print(f"  less well: {other.shape} ({other.error:.0%} off in the mean, not {best.error:.0%})")
    print(f"memory {chip['memory_bandwidth']}; matrix products {chip['matmul']}")
    for dtype, kernel in chip["attention"].items():
        print(f"attention, {dtype}: launch {kernel['launch']}, causal {kernel['causal']} of the full rate")
        for direction in ("forward", "backward"):
            rates = ", ".join(f"{rate['edge']}: {rate['rate']}" for rate in kernel[direction])
            print(f"  {direction:8}  {rates}")
    print(f"overhead {description['overhead']}\nwrote {out}")
