"""The run folder: made once, with the frozen configuration and its digest; every worker reads from it.

config.yaml        the whole configuration, frozen
config.sha256      its digest
data/              token ids, tokenizer, and which sequences they make
metrics.jsonl      one line a step
checkpoints/       Hugging Face folders with what a run goes on from; `latest` points at the newest
perplexity.json    held-out perplexity by position, and the bigram model's
run.png            the picture of both
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

from ringattn.settings.run import RunConfig, digest, load, to_yaml

CONFIG_FILE = "config.yaml"
DIGEST_FILE = "config.sha256"


def check_free(config: RunConfig) -> None:
    """Refuse a folder that exists, unless the user said to overwrite it and it is an earlier run's.

    Raises:
        ValueError: the folder exists.
    """
    folder = Path(config.run.folder)
    if not folder.exists() or goes_on(config):
        return
    if not config.run.overwrite:
        raise ValueError(
            f"a run writes into a folder of its own, but {folder} exists: choose another with "
            "run.folder=..., go on in it with run.resume=auto, or empty it first with run.overwrite=true."
        )
    if any(folder.iterdir()) and not (folder / DIGEST_FILE).is_file():
        raise ValueError(
            f"run.overwrite=true empties only the folder of an earlier run, but {folder} has no "
            f"{DIGEST_FILE}: choose another with run.folder=..."
        )


def goes_on(config: RunConfig) -> bool:
    """Whether the run is to go on in the folder of an earlier start.

    Raises:
        ValueError: the folder is not a run's, or the earlier start had other data or another model.
    """
    folder = Path(config.run.folder)
    if config.run.resume == "never" or not folder.exists():
        return False
    if not (folder / CONFIG_FILE).is_file():
        raise ValueError(
            f"run.resume=auto goes on in the folder of an earlier run, but {folder} has no {CONFIG_FILE}: choose "
            "another with run.folder=..."
        )
    before, _ = load(folder / CONFIG_FILE)
    # What the tokens in the folder were made from, and in which order they are read; the rest is checked against the
    # checkpoint.
    was, now = (
        {f"{group}.{k}": v for group in ("data", "model") for k, v in asdict(getattr(run, group)).items()}
        | {"trainer.sequence_length": run.trainer.sequence_length, "trainer.seed": run.trainer.seed}
        for run in (before, config)
    )
    differing = [key for key in now if was[key] != now[key]]
    if differing:
        key = differing[0]
        raise ValueError(
            f"a run goes on as it began, but {key} was {was[key]!r} and is {now[key]!r} (run.resume=auto in "
            f"{folder}): give "
            "the same settings, or start another run in another run.folder."
        )
    return True


def freeze(config: RunConfig) -> tuple[Path, str]:
    """Tokenize the text and write the configuration: (run folder, digest). Nothing is left behind on an error.

    Where the run goes on in a folder, its data stay, and its earlier configuration beside the new one.

    Raises:
        ValueError: the folder exists, or the text does not serve.
    """
    from ringattn.data.prepare import prepare

    check_free(config)
    folder = Path(config.run.folder)
    if goes_on(config):
        return folder, _freeze_again(config, folder)
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


def _freeze_again(config: RunConfig, folder: Path) -> str:
    """Put a new configuration in the place of the earlier one, which is kept as config-N.yaml; returns its digest."""
    text = to_yaml(config)
    if (folder / CONFIG_FILE).read_text(encoding="utf-8") != text:
        number = 1 + len(list(folder.glob("config-*.yaml")))
        (folder / CONFIG_FILE).replace(folder / f"config-{number}.yaml")
        for name, content in ((CONFIG_FILE, text), (DIGEST_FILE, digest(text) + "\n")):
            aside = folder / f".{name}.partial"
            aside.write_text(content, encoding="utf-8")
            aside.replace(folder / name)
    return digest(text)
