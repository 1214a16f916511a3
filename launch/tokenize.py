"""`ringattn tokenize`: a text or a data set into token ids on disk, for any number of runs."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ringattn.launch.words import aligned, mapping, rows, setting

from ringattn.settings.typed import build

COMMAND = "ringattn tokenize"
# `ringattn train` has the same settings in a group, and messages name them as they are called there.
AS_IN_TRAINING = {f"data.{name}": name for name in ("path", "text_key", "split", "bad")}

HELP = """\
usage: ringattn tokenize path=... out=FOLDER (tokenizer=FOLDER | vocabulary=N) [setting=value ...]

Writes the token ids of a text into a folder, an end-of-text token after each document. `ringattn train
data.path=FOLDER` reads them where they are. The text may be larger than memory.

  ringattn tokenize path=articles.parquet text_key=body tokenizer=checkpoints/llama out=tokens
  ringattn train data.path=tokens model.path=checkpoints/llama

Settings (data.path, data.text_key, data.split and data.bad are understood too):
{settings}
"""


@dataclass(frozen=True, kw_only=True)
class TokenizeConfig:
    """What `ringattn tokenize` is given."""

    path: str | None = setting(None, "text files, .jsonl, .parquet (a file, a folder or a glob), or a datasets folder")
    out: str | None = setting(None, "the folder to write; there must be none of this name")
    tokenizer: str | None = setting(None, "a Hugging Face model or tokenizer folder, or one that this command wrote")
    vocabulary: int | None = setting(None, "tokens of a tokenizer to train on the text, in place of tokenizer=")
    kind: Literal["file", "text", "jsonl", "parquet", "datasets"] = setting(
        "file", "file: what the path says; or force one"
    )
    text_key: str | None = setting(None, "the field of a record with its text; null: text")
    split: str | None = setting(None, "the part of a datasets folder; null: train")
    bad: Literal["stop", "skip"] = setting("stop", "skip: leave out records that cannot be read, and say how many")


def run(arguments: Sequence[str]) -> int:
    """The command.

    Raises:
        ValueError: a mistake in the settings or the text; nothing is left behind.
    """
    if {"-h", "--help"} & set(arguments):
        print(HELP.format(settings=aligned(rows(TokenizeConfig))))
        return 0
    config = build(TokenizeConfig, mapping(TokenizeConfig, arguments, command=COMMAND, short_forms=AS_IN_TRAINING))
    check(config)
    out = Path(str(config.out)).expanduser().absolute()
    aside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        make(config, aside)
        aside.rename(out)
    except KeyboardInterrupt:
        print("ringattn: stopped, and nothing was written", file=sys.stderr, flush=True)
        return 128 + signal.SIGINT
    except OSError as error:
        raise ValueError(f"{out} could not be written ({error}): choose another disk or folder with out=...") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    print(f"tokens in {out}: train on them with data.path={config.out}")
    return 0


def check(config: TokenizeConfig) -> None:
    """The rules that no single setting's type states; ValueError where one is broken."""
    for name in ("path", "out"):
        if getattr(config, name) is None:
            raise ValueError(f"the setting {name} is required and has no value: write {name}=...")
    if (config.tokenizer is None) == (config.vocabulary is None):
        raise ValueError(
            "tokens are made by the tokenizer of a folder or by one trained on the text, got "
            f"{'neither' if config.tokenizer is None else 'both'}: write tokenizer=FOLDER, or vocabulary=1024."
        )
    if config.vocabulary is not None and config.vocabulary < 257:
        raise ValueError(
            f"vocabulary counts 256 bytes, the end-of-text token and merges, got {config.vocabulary}: write "
            "vocabulary=512."
        )
    if Path(str(config.out)).exists():
        raise ValueError(f"out must be a new folder, but {config.out} exists: choose another name, or remove it.")


def make(config: TokenizeConfig, folder: Path) -> None:
    """Write the tokens into `folder`."""
    from ringattn.data.corpus import CORPUS_FILE, TOKENIZER
    from ringattn.data.records import BadRecords
    from ringattn.data.sources import find_source
    from ringattn.data.tokenize import tokenize
    from ringattn.data.tokenizer import copy_tokenizer, load_tokenizer
    from ringattn.settings.data import DataConfig

    path = str(Path(str(config.path)).expanduser().absolute())
    source = find_source(DataConfig(source=config.kind, path=path, text_key=config.text_key, split=config.split))
    if source.kind == "tokens":
        raise ValueError(f"path must be a text, got {config.path}, which is tokens: train on it with data.path=.")
    tokenizer = None
    if config.tokenizer is not None:
        chosen = Path(config.tokenizer).expanduser()
        if (chosen / CORPUS_FILE).is_file():  # What this command wrote before.
            chosen /= TOKENIZER
        tokenizer = load_tokenizer(chosen)
        copy_tokenizer(chosen, folder / TOKENIZER)
    bad = BadRecords(skip=config.bad == "skip")
    tokenize(source, folder, tokenizer=tokenizer, vocabulary=config.vocabulary or 0, held_out=0.0, bad=bad)
    if bad.count:
        print(bad.report(), file=sys.stderr, flush=True)
