"""`ringattn eval`: check the settings, start the ranks. Under torchrun: be one of them."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Sequence

HELP = """\
usage: ringattn eval model.path=FOLDER [setting=value ...]

Did a long-context fine-tune work? Perplexity by position and length, passkey retrieval, RULER-style tasks and
associative recall, with each sequence spread over the ranks. Under torchrun it takes the ranks that are there:

  ringattn eval model.path=FOLDER tasks=perplexity data.path=book.txt lengths=4k,8k,16k
  ringattn eval model.path=FOLDER tasks=passkey,ruler lengths=1k,2k,4k compare=runs/before
  torchrun --nproc-per-node 4 -m ringattn eval model.path=FOLDER tasks=recall

It prints tables, and writes the same as JSON and pictures into a folder: docs/evaluation.md.

Settings, their defaults and meanings:
{settings}
"""


def run(arguments: Sequence[str]) -> int:
    """The command; returns the exit code.

    Raises:
        ValueError: a mistake in the settings, before any rank has started.
    """
    if {"-h", "--help"} & set(arguments):
        from ringattn.launch.evaluate.settings import help_text

        print(HELP.format(settings=help_text()), end="")
        return 0
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        from ringattn.launch.evaluate.worker import take_part
        from ringattn.launch.workers import joined_command

        return take_part(arguments, joined_command("eval", arguments))
    from ringattn.launch.evaluate.settings import read, read_other
    from ringattn.launch.workers import start_module

    from ringattn.settings.evaluation import out_folder

    config = read(arguments)
    read_other(config)
    folder = out_folder(config, stamp=time.strftime("%Y%m%d-%H%M%S"))
    words = [word for word in arguments if word.partition("=")[0] not in ("out", "model", "model.path")]
    words.append(f"model.path={config.folder}")
    typed = f"ringattn eval {shlex.join(arguments)}"
    return start_module(
        "ringattn.launch.evaluate.worker",
        [typed, *words, f"out={folder}"],
        threads=config.launcher.threads,
        processes=config.launcher.processes,
    )
