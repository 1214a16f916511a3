"""`ringattn COMMAND`: one module a command, imported only when it is asked for.

`ringattn --help` and `ringattn COMMAND --help` import neither torch nor transformers nor Hydra.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

# command: (module with `run(arguments) -> exit code`, one line of help)
COMMANDS = {
    "train": ("ringattn.launch.train", "train a language model on long sequences, over all ranks"),
    "tokenize": ("ringattn.launch.tokenize", "turn a text or a data set into tokens on disk, to train on"),
    "generate": ("ringattn.launch.generate", "continue a prompt, with the keys and values spread over all ranks"),
    "eval": ("ringattn.launch.evaluate.command", "perplexity by position, passkey, RULER-style tasks, recall"),
    "compare": ("ringattn.launch.compare.command", "run schedules side by side: measured, predicted, checked"),
    "plan": ("ringattn.launch.plan", "the best schedule for a cluster, a model and a length, with reasons"),
    "convert": ("ringattn.launch.convert", "GGUF, LoRA, DeepSpeed and other checkpoints into a Hugging Face folder"),
    "schedules": ("ringattn.launch.schedules", "list, show and verify communication schedules, your own too"),
    "doctor": ("ringattn.launch.doctor", "show what works on this machine"),
}

USAGE = "usage: ringattn COMMAND [--help] [arguments]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 2 for a mistake in the input, as argparse does."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0
    if words[0] == "--version":
        from ringattn import __version__

        print(f"ringattn {__version__}")
        return 0
    command, *rest = words
    if command not in COMMANDS:
        from ringattn.settings.typed import suggest

        print(
            f"ringattn: there is no command {command!r}.{suggest(command, COMMANDS)} "
            f"The commands are {', '.join(COMMANDS)}.",
            file=sys.stderr,
        )
        return 2
    module = import_module(COMMANDS[command][0])
    try:
        code: int = module.run(rest)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, `head` say, has what it wanted. What is left to print goes nowhere, without a complaint.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ValueError as error:
        from ringattn.launch.failure import one_sentence

        print(f"ringattn: {one_sentence(error)}", file=sys.stderr, flush=True)
        return 2
    return code


def overview() -> str:
    """The help of the command itself."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {line}" for name, (_, line) in COMMANDS.items()]
    return "\n".join(
        [
            USAGE,
            "",
            "Train any Hugging Face causal language model on sequences longer than one device can hold.",
            "",
            *lines,
            "",
            "`ringattn COMMAND --help` says what a command takes.",
        ]
    )
