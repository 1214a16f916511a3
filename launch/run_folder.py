"""The run folder: made once, with the frozen configuration and its digest; every worker reads from it.

config.yaml        the whole configuration, frozen
config.sha256      its digest
data/              token ids, tokenizer, and which sequences they make
metrics.jsonl      one line a step
checkpoints/       Hugging Face folders, `latest` points at the newest
perplexity.json    held-out perplexity by position, and the bigram model's
run.png            the picture of both
"""

from __future__ import annotations

import shutil
from pathlib import Path

from ringattn.settings.run import RunConfig, digest, to_yaml

CONFIG_FILE = "config.yaml"
DIGEST_FILE = "config.sha256"


def check_free(config: RunConfig) -> None:
    """Refuse a folder that exists, unless the user said to overwrite it and it is an earlier run's.

    Raises:
        ValueError: the folder exists.
    """
    folder = Path(config.run.folder)
    if not folder.exists():
        return
    if not config.run.overwrite:
        raise ValueError(
            f"a run writes into a folder of its own, but {folder} exists: choose another with "
            "run.folder=..., or empty it first with run.overwrite=true."
        )
    if any(folder.iterdir()) and not (folder / DIGEST_FILE).is_file():
        raise ValueError(
            f"run.overwrite=true empties only the folder of an earlier run, but {folder} has no "
            f"{DIGEST_FILE}: choose another with run.folder=..."
        )


def freeze(config: RunConfig) -> tuple[Path, str]:
    """Tokenize the text and write the configuration: (run folder, digest). Nothing is left behind on an
    error.

    Raises:
        ValueError: the folder exists, or the text does not serve.
    """
    from ringattn.data.prepare import prepare

    check_free(config)
    folder = Path(config.run.folder)
    aside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        prepare(config, aside / "data")
        text = to_yaml(config)
        (aside / CONFIG_FILE).write_text(text, encoding="utf-8")
        (aside / DIGEST_FILE).write_text(digest(text) + "\n", encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        aside.rename(folder)
    except OSError as error:
        raise ValueError(
            f"the run folder {folder} could not be written ({error}): choose another disk or folder with run.folder=..."
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder, digest(text)
