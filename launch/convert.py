"""`ringattn convert`: a checkpoint of another kind into a Hugging Face folder that plain transformers loads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import yaml
from ringattn.launch.words import aligned, read, rows, setting

from ringattn.sequence.suggest import suggest
from ringattn.settings.hybrid import MIXER_NAMES, HybridSettings
from ringattn.settings.rules import positive

if TYPE_CHECKING:
    from ringattn.models.hybrid.convert import Recipe

HELP = """\
usage: ringattn convert source=... out=FOLDER [setting=value ...]

Writes a Hugging Face folder (config, safetensors, tokenizer) from

  a GGUF file                     weights dequantized
  a LoRA adapter folder (PEFT)    merged into its base model
  a DeepSpeed ZeRO checkpoint     stages 1, 2 and 3
  a Hugging Face folder or name   in another dtype, or in files of another size
  a run folder of ringattn        its newest checkpoint, whichever of these it is

and with to=landmark makes a landmark model of it, to be trained (docs/landmark-models.md); to=plain takes the landmarks
out again. With to=hybrid, linear attention takes the place of softmax attention in most layers of a LLaMA-like model;
`ringattn train distill=mixers` and then `distill=logits` teach the result what the source does
(docs/hybrid-conversion.md).

Settings, their defaults and meanings:
{settings}
"""

_SIZE = re.compile(r"\d+(\.\d+)?\s*(KB|MB|GB)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """What is asked."""

    source: str | None = setting(None, "what to convert")
    out: str | None = setting(None, "a new folder; nothing is overwritten")
    base: str | None = setting(None, "the model that an adapter or a DeepSpeed checkpoint belongs to")
    dtype: Literal["bfloat16", "float32", "float16"] | None = setting(None, "of the weights; null: as they are stored")
    shard_size: str = setting("5GB", "of one file of weights, at most: 500MB, 5GB")
    to: Literal["landmark", "plain", "hybrid"] | None = setting(
        None, "landmark, hybrid: a model of that kind; plain: one without landmarks; null: as it is"
    )
    landmark_block: int | None = setting(None, "with to=landmark: tokens of a block; null: 63")
    pattern: str | None = setting(None, "of a hybrid: linear to full layers, 3:1 unless given; or pure, full, a list")
    mixer: str | None = setting(None, "of its linear layers: gated_deltanet unless given, gla, kda, ...")
    sliding_window: int | None = setting(None, "how many keys a token of its sliding layers sees")
    seed: int | None = setting(None, "of its weights that are copied from nowhere; 0 unless given")


def run(arguments: Sequence[str]) -> int:
    """The command; returns the exit code.

    Raises:
        ValueError: a mistake in the settings; a source that can't be converted; an `out` that exists.
    """
    if {"-h", "--help"} & set(arguments):
        print(HELP.format(settings=aligned(rows(ConvertConfig))), end="")
        return 0
    config = read(ConvertConfig, arguments, command="ringattn convert")
    for name in ("source", "out"):
        if getattr(config, name) is None:
            raise ValueError(f"the setting {name} is required and has no value: write {name}=...")
    if not _SIZE.fullmatch(config.shard_size):
        raise ValueError(f"shard_size is a number of MB or GB, got {config.shard_size!r}: write for example 5GB.")
    if config.landmark_block is not None and config.to != "landmark":
        raise ValueError(f"landmark_block={config.landmark_block} is for making a landmark model: write to=landmark.")
    block = 63 if config.landmark_block is None else config.landmark_block
    positive({"landmark_block": block})
    check_hybrid_settings(config)
    check_source(str(config.source))
    out = Path(str(config.out)).expanduser().absolute()
    if out.exists():
        raise ValueError(f"convert never overwrites, but {out} exists: name another folder with out=...")
    import torch
    from transformers.utils import logging

    from ringattn.models.convert import convert, identify

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    source = identify(str(config.source))
    print(source.describe(), flush=True)
    dtype = None if config.dtype is None else getattr(torch, config.dtype)
    written = convert(
        source, out, base=config.base, dtype=dtype, shard_size=config.shard_size, to=config.to,
        landmark_block=block, hybrid=recipe_of(config),
    )  # fmt: skip
    if written.hybrid is not None:
        print(written.hybrid)
    print(
        f"{out}: {written.weights:,} weights in {str(written.dtype).removeprefix('torch.')}, {written.files} file(s), "
        + (f"tokenizer {', '.join(written.tokenizer)}" if written.tokenizer else "no tokenizer")
    )
    return 0


def check_source(word: str) -> None:
    """ValueError where `word` is neither a path, nor a package, nor like a name on the hub."""
    path = Path(word).expanduser()
    if path.exists() or word.startswith("package:") or re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", word):
        return
    # Other commands know models by a name of their own.
    named = files("ringattn.conf") / "model" / f"{word}.yaml"
    meant = (
        yaml.safe_load(named.read_text(encoding="utf-8")).get("path") if "/" not in word and named.is_file() else None
    )
    raise ValueError(
        f"source is a folder or a file of this machine, package:NAME or a name on the hub, and there is no {path}"
        + (f": model={word} of the other commands is source={meant} here." if meant else ".")
    )


def check_hybrid_settings(config: ConvertConfig) -> None:
    """ValueError where settings of a hybrid are given for nothing, or name no mixer."""
    own = {name: getattr(config, name) for name in ("pattern", "mixer", "sliding_window", "seed")}
    given = [name for name, value in own.items() if value is not None]
    if config.to != "hybrid" and given:
        raise ValueError(f"{given[0]} is of a hybrid, got {given[0]}={own[given[0]]} without to=hybrid: write both.")
    if config.sliding_window is not None and "sliding" not in (config.pattern or ""):
        raise ValueError(
            f"sliding_window is of the sliding layers of a pattern, got sliding_window={config.sliding_window} and "
            f"pattern={config.pattern or '3:1'}, which has none: list the kind of each layer "
            "(pattern=linear,sliding,...,full), or leave it out."
        )
    if config.mixer is not None and config.mixer not in MIXER_NAMES:
        raise ValueError(
            f"mixer is one of {', '.join(MIXER_NAMES)}, got {config.mixer!r}{suggest(config.mixer, MIXER_NAMES)}"
        )


def recipe_of(config: ConvertConfig) -> Recipe | None:
    """How to make the hybrid that is asked for; None where none is."""
    if config.to != "hybrid":
        return None
    from ringattn.models.hybrid.convert import Recipe

    return Recipe(
        pattern=HybridSettings(pattern=config.pattern).listed_pattern() if config.pattern else Recipe.pattern,
        mixer=config.mixer or Recipe.mixer,
        sliding_window=config.sliding_window,
        seed=config.seed or 0,
    )
