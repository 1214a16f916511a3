"""`ringattn compare`: check the settings, start the ranks. Under torchrun: be one of them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

HELP = """\
usage: ringattn compare [setting=value ...]

Run communication schedules side by side on the same input: measured, predicted, and checked against fp64. With no
arguments: all schedules over two ranks of this machine, within about a minute on two cores. Under torchrun it takes the
ranks that are there, on several hosts too:

  torchrun --nproc-per-node 4 -m ringattn compare length=8192 schedules=ring,tokenring,usp:heads=2

With mixer= or routes= it compares how the states of a linear attention get past the ranks (docs/linear-parallel.md):

  ringattn compare mixer=gated_deltanet routes=allgather,ring,pipeline ranks=4

It prints a table, and writes the same as JSON lines, a page, a picture and a trace into a folder: docs/compare.md.

Settings, their defaults and meanings:
{settings}

With mixer= or routes= these, and of the others layout, length, batch, repeats, warmup, recorded, seed, cluster, nodes,
folder, timeout, ranks and launcher:
{state_settings}
"""


def run(arguments: Sequence[str]) -> int:
    """The command; returns the exit code.

    Raises:
        ValueError: a mistake in the settings, before any rank has started.
    """
    from ringattn.launch.compare.settings import cluster_of, folder_of, help_text, read
    from ringattn.launch.compare.state_settings import asks_for_states, read_states, states_help_text

    if {"-h", "--help"} & set(arguments):
        print(HELP.format(settings=help_text(), state_settings=states_help_text()), end="")
        return 0
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        from ringattn.launch.compare.worker import take_part
        from ringattn.launch.workers import joined_command

        return take_part(arguments, joined_command("compare", arguments))
    config = read_states(arguments) if asks_for_states(arguments) else read(arguments)
    cluster_of(config)
    folder = folder_of(config)
    from ringattn.launch.workers import start_module

    words = [word for word in arguments if not word.startswith("folder=")]
    typed = f"ringattn compare {shlex.join(arguments)}".strip()
    return start_module(
        "ringattn.launch.compare.worker",
        [typed, *words, f"folder={folder}"],
        threads=config.launcher.threads,
        processes=config.ranks,
    )
