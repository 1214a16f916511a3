"""`ringattn train`: compose, freeze, start the workers. Under torchrun: be one of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ringattn.settings.run import RunConfig

HELP = """\
usage: ringattn train [--dry-run | --multirun] [group=choice ...] [setting=value ...]

With no arguments: a small LLaMA on the King James Bible, 8,192 tokens a sequence over two processes, in under
five minutes on two cores. On GPUs add launcher.processes=N. The same under torchrun:

  torchrun --nproc-per-node 2 -m ringattn train trainer.steps=5

  --dry-run   print the configuration, the mesh, the memory estimate and the commands; start nothing
  --multirun  a job for each point of what commas span (schedule=ring,tokenring), and one table of all

Several hosts: launcher=torchrun, deepspeed or slurm. Exit codes: 0 done, 2 a mistake in the input, 75 asked to stop
(SIGUSR1) and saved, to be started again with resume=auto, 128 and its number after another signal.

Groups (group=choice):
{groups}

Settings (setting=value); --dry-run shows their values, and the files of the groups say what they mean:
{folder}
{settings}

Short forms: data.path=PATH (text, .jsonl, .parquet, a datasets folder, tokens; a file, a folder or a 'glob*'),
model.path=FOLDER (a Hugging Face checkpoint, a GGUF file or a hub name), resume=auto (go on in run.folder),
schedule=NAME, layout=NAME, processes=N, threads=N and device=cpu (as every command takes them).
"""


def run(arguments: Sequence[str]) -> int:
    """The command; returns the workers' exit code.

    Raises:
        ValueError: a mistake in the configuration or the data, before any worker has started.
    """
    if {"-h", "--help"} & set(arguments):
        print(help_text())
        return 0
    options = [word for word in arguments if word.startswith("--")]
    unknown = sorted(set(options) - {"--dry-run", "--multirun"})
    if unknown:
        raise ValueError(
            f"the options of `ringattn train` are --dry-run and --multirun, got {unknown[0]}: settings are written "
            "key=value, see --help."
        )
    if len(set(options)) > 1:
        raise ValueError("--dry-run starts nothing and --multirun starts several jobs: write one of them, not both.")
    overrides = [word for word in arguments if word not in options]
    under_launcher = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    if "--multirun" in options:
        if under_launcher:
            raise ValueError(
                "--multirun starts the workers of each job itself, and this is one of them, started by torchrun or "
                "another launcher: type plain `ringattn train --multirun`."
            )
        from ringattn.launch.multirun import run_all

        return run_all(overrides)
    if under_launcher and "--dry-run" not in options:
        from ringattn.launch.joined import join

        return join(overrides)
    from ringattn.launch.compose import compose

    config = compose(overrides)
    from ringattn.launch.run_folder import check_free

    if "--dry-run" in options:
        check_free(config)
        from ringattn.launch.dry_run import describe

        print(describe(config))
        return 0
    if config.launcher.kind == "local":
        return start_here(config)
    if config.launcher.kind == "slurm":
        from ringattn.launch.slurm import submit

        return submit(config)
    from ringattn.launch.several import start_on_this_host

    return start_on_this_host(config, overrides)


def start_here(config: RunConfig) -> int:
    """Freeze the run and start its workers on this machine; the exit code."""
    from ringattn.launch.launchers import agent_environment, command
    from ringattn.launch.run_folder import freeze
    from ringattn.launch.workers import outcome, start

    folder, digest = freeze(config)
    print(f"run folder {folder}", file=sys.stderr, flush=True)
    launcher = config.launcher
    code = start(
        command(config, folder, digest),
        threads=launcher.threads,
        processes=launcher.processes,
        variables=agent_environment(launcher),
    )
    return outcome(code, folder, config.trainer.steps)


def help_text() -> str:
    """Groups and settings with their defaults, from the groups' files and the typed configuration."""
    from ringattn.launch.compose import conf_folder, groups

    from ringattn.settings.typed import keys

    width = max(map(len, groups()))
    listed = [f"  {name.ljust(width)}  {', '.join(choices)}" for name, choices in groups().items()]
    settings: dict[str, list[str]] = {}
    for key in keys(RunConfig):
        group, _, name = key.partition(".")
        settings.setdefault(group, []).append(name)
    lines = [f"  {group}.{{{', '.join(names)}}}" for group, names in settings.items()]
    return HELP.format(groups="\n".join(listed), settings="\n".join(lines), folder=conf_folder())
