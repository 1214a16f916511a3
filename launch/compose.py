"""Overrides from the command line into one checked `RunConfig`, with suggestions where a word is wrong.

Hydra composes the groups in `conf/`. It is asked only after every override names something that exists:
Hydra's own advice for an unknown key is to add it with `+`, which turns a typing error into a setting that
nobody reads.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ringattn.conf
import yaml

from ringattn.models.source import locate
from ringattn.planner.architecture import architecture_of, read_config
from ringattn.planner.choose import AUTO, cluster_for
from ringattn.schedule import schedules
from ringattn.settings.distill import check_teacher
from ringattn.settings.hosts import read_hostfile
from ringattn.settings.launcher import num_ranks
from ringattn.settings.model import check_landmark_block
from ringattn.settings.parallel import mesh_shape
from ringattn.settings.rope import parse_rope_scaling, scaled_positions
from ringattn.settings.run import RunConfig, from_mapping
from ringattn.settings.typed import keys, suggest

# A path says which variants of groups are meant, where the user names none.
IMPLIED = {
    "model.path": {"model": "folder", "experiment": "finetune"},
    "data.path": {"data": "file"},
    "distill.teacher": {"distill": "logits"},
}

# Words of their own that stand for a setting. Other commands take the plain names of how ranks start too.
SHORT = {
    "resume": "run.resume",
    "layout": "schedule.layout",
    "processes": "launcher.processes",
    "threads": "launcher.threads",
    "device": "launcher.device",
    "launcher.submit": "launcher.slurm.submit",
}

# Settings whose value may hold commas, which Hydra takes for a choice between several.
LISTS = ("launcher.hosts",)

# Settings of the data group that name files.
DATA_PATHS = ("path", "held_out_path", "documents")

# Folders beside the groups that hold files of another kind: descriptions of clusters, for planning.
NO_GROUPS = ("cluster",)


def conf_folder() -> Path:
    """Where the installed groups are."""
    return Path(str(ringattn.conf.__file__)).parent


def groups() -> dict[str, list[str]]:
    """Each group and its choices; `schedule` takes the names of the schedules."""
    found = {
        path.name: sorted(choice.stem for choice in path.glob("*.yaml"))
        for path in sorted(conf_folder().iterdir())
        if path.is_dir() and any(path.glob("*.yaml")) and path.name not in NO_GROUPS
    }
    found["schedule"] = [*schedules(), AUTO]
    return found


def compose(overrides: Sequence[str], *, world: int | None = None, now: float | None = None) -> RunConfig:
    """The configuration that `overrides` (Hydra's `key=value` and `group=choice`) make.

    `world` is the number of ranks where a launcher has started them already (null: those of the settings), `now`
    the time in seconds that an unnamed run folder is called after.

    Raises:
        ValueError: an unknown key, group choice or value, with a suggestion; a rule that the values break.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    wanted = rewrite(overrides)
    try:
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            composed = hydra_compose("config", overrides=wanted)
            missing = sorted(OmegaConf.missing_keys(composed))
            if missing:
                raise ValueError(f"the setting {missing[0]} is required and has no value: write {missing[0]}=...")
            values: Any = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        elsewhere = re.match(r"Could not override '([\w.]+)'", str(error))
        if elsewhere is not None:
            raise ValueError(_of_another_choice(elsewhere[1])) from error
        raise ValueError(
            f"the settings could not be put together: {str(error).splitlines()[0]} (overrides are "
            "key=value, with quotes around values that hold commas or brackets)."
        ) from error
    _fill(values, now=time.time() if now is None else now)
    config = from_mapping(values)
    _check_against_machine(config, world=num_ranks(config.launcher) if world is None else world)
    return config


def rewrite(overrides: Sequence[str]) -> list[str]:
    """Check the names in the overrides, and write the short forms out.

    >>> rewrite(["schedule=ring", "data.path=a.txt"])
    ['data=file', "schedule.name='ring'", 'data.path=a.txt']
    """
    known_groups, known_keys = groups(), keys(RunConfig)
    result: list[str] = []
    given = {override.partition("=")[0] for override in overrides}
    for override in overrides:
        name, equals, value = override.partition("=")
        if not equals:
            raise ValueError(
                "an override is written key=value, got "
                f"{override!r}.{suggest(name, [*known_keys, *known_groups])} See `ringattn train --help`."
            )
        plain = SHORT.get(name.lstrip("+~"), name.lstrip("+~"))
        if plain in known_groups:
            if plain == "model" and value in known_groups["model"] and _is_trained(value) and "experiment" not in given:
                result.insert(0, "experiment=finetune")
            result.append(_group_choice(plain, value, known_groups[plain]))
        elif plain in known_keys:
            if value not in ("null", ""):
                implied = IMPLIED.get(plain, {}).items()
                result[:0] = [f"{group}={choice}" for group, choice in implied if group not in given]
            result.append(f"{plain}='{value}'" if plain in LISTS and _is_bare_list(value) else f"{plain}={value}")
        elif any(key.startswith(f"{plain}.") for key in known_keys):
            inside = [key for key in known_keys if key.startswith(f"{plain}.")]
            raise ValueError(f"{plain} is a group of settings, got {override!r}: set one of {', '.join(inside)}.")
        else:
            raise ValueError(
                f"there is no setting {plain}.{suggest(plain, [*known_keys, *known_groups])} "
                "See `ringattn train --help`."
            )
    return result


def _is_bare_list(value: str) -> bool:
    return bool(set(",[]:") & set(value)) and not value.startswith(("'", '"'))


def _group_choice(group: str, choice: str, choices: list[str]) -> str:
    if group == "schedule":
        return f"schedule.name='{choice}'"
    if choice not in choices:
        raise ValueError(
            f"{group} must be one of {', '.join(choices)}, got {choice!r}.{suggest(choice, choices)} "
            f"Write for example {group}={choices[0]}."
        )
    return f"{group}={choice}"


def _is_trained(model: str) -> bool:
    """Whether a shipped choice of `model` is a checkpoint, and not sizes."""
    return _choice_values("model", model)["path"] is not None


def _choice_values(group: str, choice: str) -> Any:
    return yaml.safe_load((conf_folder() / group / f"{choice}.yaml").read_text(encoding="utf-8"))


def _of_another_choice(key: str) -> str:
    """What to say of a setting that the chosen variant of its group does not have."""
    group, *parts = key.split(".")
    having = []
    for choice in groups()[group]:
        values = _choice_values(group, choice)
        for part in parts:
            values = values.get(part, ...) if isinstance(values, dict) else ...
        if values is not ...:
            having.append(f"{group}={choice}")
    return (
        f"{key} is a setting of {', '.join(having)}, and none of these is chosen: write for example {having[0]} as "
        "well, or leave it out."
    )


def _fill(values: dict[str, Any], *, now: float) -> None:
    """Values that depend on the place and the time, and paths made absolute."""
    run = values["run"]
    if run["folder"] is None:
        run["folder"] = f"runs/{run['name']}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}"
    model, launcher = values["model"], values["launcher"]
    if model["path"] is not None:
        model["path"] = str(locate(str(model["path"])))
    if values["distill"]["teacher"] is not None:
        values["distill"]["teacher"] = str(_teacher(str(values["distill"]["teacher"])))
    places = [(run, "folder"), (launcher, "hostfile"), *((values["data"], key) for key in DATA_PATHS)]
    for place, key in places:
        if place[key] is not None:
            place[key] = str(Path(str(place[key])).expanduser().absolute())
    if launcher["hostfile"] is not None:
        if launcher["hosts"] is not None:
            raise ValueError("launcher.hosts and launcher.hostfile both name the hosts, got both: write one of them.")
        # Workers and the frozen configuration need no file beside them.
        launcher["hosts"] = ",".join(map(str, read_hostfile(Path(launcher["hostfile"]))))
    named = values["schedule"]["cluster"]
    if named is not None and Path(str(named)).is_file():
        values["schedule"]["cluster"] = str(Path(str(named)).absolute())


def _teacher(word: str) -> Path:
    """The teacher's folder; ValueError that speaks of the setting where there is none."""
    try:
        return locate(word)
    except ValueError as error:
        raise ValueError(f"distill.teacher={word} can't be read: {error}") from error


def _check_against_machine(config: RunConfig, *, world: int) -> None:
    """Names and folders that only this machine can confirm."""
    named = {config.schedule.name, config.schedule.backward or config.schedule.name}
    _, degree = mesh_shape(world, config.mesh.sequence_parallel)
    if config.schedule.cluster is not None or (AUTO in named and config.launcher.device == "cpu"):
        cluster_for(config.schedule.cluster, "cpu", degree)
    if config.model.path is not None:
        found = read_config(Path(config.model.path))
        architecture_of(found)
        check_landmark_block(found, config.model.landmark_block)
        if config.distill.teacher is not None:
            check_teacher(
                config.distill, Path(config.model.path), Path(config.distill.teacher),
                landmark_block=config.model.landmark_block, ranks=degree,
            )  # fmt: skip
        if config.model.rope_scaling is not None:
            scaled_positions(
                found, parse_rope_scaling(config.model.rope_scaling), length=config.trainer.sequence_length
            )
