"""`ringattn generate`: a model continues a prompt, its keys and values spread over ranks; text comes as it is made."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ringattn.launch.words import aligned, join, mapping, rows, setting

from ringattn.settings.retrieval import RetrievalConfig, check_model_serves, check_retrieval
from ringattn.settings.typed import build

HELP = """\
usage: ringattn generate model.path=FOLDER prompt="..." [setting=value ...]

Continues a prompt. It is read by all ranks together, under any schedule; after that each rank holds its share of the
keys and values, and answers each new token's query for those. A landmark model reads it in windows and retrieves past
blocks (retrieval.k=4 ...).

  ringattn generate model.path=runs/finetune/checkpoints/latest prompt_file=book.txt max_new_tokens=200
  torchrun --nproc-per-node 2 -m ringattn generate model.path=FOLDER prompt="In the beginning"

Settings, their defaults and meanings:
{settings}
"""

COMMAND = "ringattn generate"
_SHORT_FORMS = {
    "model.path": "model",
    "model.rope_scaling": "rope_scaling",
    "schedule.name": "schedule",
    "schedule.layout": "layout",
    "schedule.timeout": "timeout",
    "launcher.processes": "processes",
    "launcher.threads": "threads",
    "launcher.device": "device",
}


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """What is asked. The names that training uses, `model.path` and `schedule.name` among them, will do as well."""

    model: str | None = setting(None, "model.path: a folder, a GGUF file or a name on the hub; or a shipped model")
    rope_scaling: str | None = setting(None, "model.rope_scaling: yarn:16384 ..., beyond the model's positions")
    prompt: str | None = setting(None, "the text to continue")
    prompt_file: str | None = setting(None, "or a UTF-8 file with it")
    chat: bool = setting(False, "the prompt is a user's message, in the model's chat template")
    max_new_tokens: int = setting(64, "tokens to make at most; fewer where the model ends its text")
    temperature: float = setting(0.0, "0 takes the likeliest token, above 0 samples")
    top_p: float = setting(1.0, "samples among the likeliest tokens that have this probability together")
    seed: int = setting(0, "of the sampling")
    dtype: Literal["float32", "bfloat16", "float16"] = setting("float32", "of the weights and the cache")
    schedule: str = setting("tokenring", "how the prompt is read")
    layout: str = setting("zigzag", "how it is cut")
    processes: int = setting(2, "ranks on this machine")
    threads: int | None = setting(None, "of each; null: cores / processes")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "cuda where there is one, else cpu")
    timeout: float = setting(600.0, "seconds until a silent peer is an error")
    # Of a landmark model; its defaults where nothing is said.
    retrieval: RetrievalConfig | None = None


def run(arguments: Sequence[str]) -> int:
    """The command; returns the exit code.

    Raises:
        ValueError: a mistake in the settings, the prompt or the model.
    """
    if {"-h", "--help"} & set(arguments):
        found = [*rows(GenerateConfig), *((f"retrieval.{row[0]}", *row[1:]) for row in rows(RetrievalConfig))]
        print(HELP.format(settings=aligned(found)), end="")
        return 0
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        from ringattn.launch.generate_job import take_part

        return take_part(arguments)
    from ringattn.launch.workers import start_module

    config = read_words(arguments)
    folder = check(config)
    # What a name stands for is found once; the ranks read the folder.
    words = [*arguments, f"model={folder}"]
    return start_module("ringattn", ["generate", *words], threads=config.threads, processes=config.processes)


def read_words(arguments: Sequence[str], *, world: int | None = None) -> GenerateConfig:
    """The settings. A prompt is text as it stands: what looks like a number or a list in it is none. world: the number
    of ranks where a launcher has started them.

    Raises:
        ValueError: an unknown key or value, with a suggestion.
    """
    prompts = [word.partition("=")[2] for word in arguments if word.startswith("prompt=")]
    words = [word for word in arguments if not word.startswith("prompt=")]
    values = mapping(GenerateConfig, words, command=COMMAND, short_forms=_SHORT_FORMS)
    join(values, world, name="processes")
    if prompts:
        values["prompt"] = prompts[-1]
    return build(GenerateConfig, values)


def check(config: GenerateConfig) -> Path:
    """The model's folder, once all else is known to be right; the model is converted or downloaded where it must.

    Raises:
        ValueError: a mistake, before any rank has started.
    """
    from ringattn.launch.plan import shipped_path

    from ringattn.models.source import locate
    from ringattn.planner.architecture import read_config
    from ringattn.schedule import parse
    from ringattn.sequence.layout import make_layout
    from ringattn.settings.rope import parse_rope_scaling
    from ringattn.settings.rules import positive

    if config.model is None:
        raise ValueError("the setting model.path is required and has no value: write model.path=FOLDER.")
    prompt_text(config)
    check_numbers(config)
    if config.retrieval is not None:
        check_retrieval(config.retrieval)
    positive({"processes": config.processes, "threads": config.threads, "timeout": config.timeout})
    parse(config.schedule)
    make_layout(config.layout, 0, 1)
    if config.rope_scaling is not None:
        parse_rope_scaling(config.rope_scaling)
    folder = locate(shipped_path(config.model) or config.model)
    plain = GenerateConfig()
    if "landmark_block" in read_config(folder) and (config.schedule, config.layout) != (plain.schedule, plain.layout):
        raise ValueError(
            "a landmark model's prompt is read in windows, whole on each rank, by no schedule, got "
            f"schedule={config.schedule} layout={config.layout}: leave them out."
        )
    if config.retrieval is not None:
        check_model_serves(read_config(folder), config.retrieval, name=str(folder))
    return folder


def check_numbers(config: GenerateConfig) -> None:
    """ValueError where a number of the sampling is outside of its range."""
    from ringattn.settings.sampling import check_sampling

    check_sampling(max_new_tokens=config.max_new_tokens, temperature=config.temperature, top_p=config.top_p)


def prompt_text(config: GenerateConfig) -> str:
    """The prompt. ValueError where there is none, or two."""
    if (config.prompt is None) == (config.prompt_file is None):
        found = "neither" if config.prompt is None else "both"
        raise ValueError(f'a text to continue is given by prompt="..." or prompt_file=FILE, got {found}: give one.')
    if config.prompt is not None:
        text, place = config.prompt, "prompt"
    else:
        path = Path(str(config.prompt_file)).expanduser()
        try:
            text, place = path.read_text(encoding="utf-8"), f"prompt_file={path}"
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"prompt_file must be a UTF-8 text file, got {path} ({error}): give another.") from None
    if not text:
        raise ValueError(f'a prompt needs a word at least, but {place} is empty: write prompt="Once upon a time".')
    return text
