"""The settings of `ringattn eval`: words of the command line into one checked value, and their help. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ringattn.launch.evaluate.harness import check_installed
from ringattn.launch.plan import shipped_path
from ringattn.launch.words import aligned, join, mapping, rows

from ringattn.evaluation.result import Evaluation
from ringattn.models.source import locate
from ringattn.planner.architecture import read_config
from ringattn.report import evaluation_json
from ringattn.sequence.layout import LAYOUTS
from ringattn.settings.evaluation import (
    EvaluationConfig,
    HarnessConfig,
    RecallConfig,
    RulerConfig,
    TextConfig,
    check,
)
from ringattn.settings.launcher import WorkersConfig
from ringattn.settings.parallel import ScheduleConfig
from ringattn.settings.retrieval import RetrievalConfig, check_model_serves
from ringattn.settings.typed import build

_SHORT_FORMS = {
    "model": "model.path",
    "schedule": "schedule.name",
    "layout": "schedule.layout",
    "processes": "launcher.processes",
    "device": "launcher.device",
    "threads": "launcher.threads",
}


def read(words: Sequence[str], *, world: int | None = None) -> EvaluationConfig:
    """The configuration that `key=value` words make. world: the number of ranks where a launcher has started them.

    Raises:
        ValueError: an unknown key or value, with a suggestion; a rule that the values break.
    """
    found = mapping(EvaluationConfig, words, command="ringattn eval", short_forms=_SHORT_FORMS)
    join(found.setdefault("launcher", {}), world, name="processes")
    config = build(EvaluationConfig, found)
    check(config)
    # Whatever the model is named by, each rank reads a folder.
    path = str(config.model.path)
    config = replace(config, model=replace(config.model, path=str(locate(shipped_path(path) or path))))
    if config.retrieval is not None:
        # The model may be made a landmark model on loading; what it then computes without training is its own affair.
        values = read_config(config.folder) | _made(config.model.landmark_block)
        check_model_serves(values, config.retrieval, name=str(config.folder))
    if config.harness.tasks is not None:
        check_installed()
    return config


def _made(block: int | None) -> dict[str, int]:
    return {} if block is None else {"landmark_block": block}


def read_other(config: EvaluationConfig) -> Evaluation | None:
    """The evaluation to show beside this one, if any. ValueError where there is none at its place."""
    return None if config.compare is None else evaluation_json.read(Path(config.compare).expanduser())


def help_text() -> str:
    """The settings with their meanings and defaults."""
    scheduled, started = ScheduleConfig(), WorkersConfig()
    found = [
        ("model.path", "", "the model: a checkpoint folder, a GGUF file, a hub name; or model=smollm2_135m"),
        ("model.rope_scaling", "null", "stretch its positions first: yarn:16384, see docs/models.md"),
        ("model.landmark_block", "null", "make a landmark model of it first; a trained one knows its block"),
        *rows(EvaluationConfig),
    ]
    for group, cls in (
        ("data", TextConfig),
        ("ruler", RulerConfig),
        ("recall", RecallConfig),
        ("harness", HarnessConfig),
        ("retrieval", RetrievalConfig),
    ):
        found += [(f"{group}.{name}", default, meaning) for name, default, meaning in rows(cls)]
    found += [
        ("mesh.sequence_parallel", "null", "ranks that share a sequence, the others read other ones; null: all"),
        ("schedule.name", scheduled.name, "or schedule=: of attention; see `ringattn schedules`"),
        ("schedule.layout", scheduled.layout, f"or layout=: how the sequence is cut: {', '.join(LAYOUTS)}"),
        ("schedule.kernel", scheduled.kernel, "of attention on one rank; see `ringattn doctor`"),
        ("schedule.timeout", str(scheduled.timeout), "seconds after which a rank that does not answer is given up"),
        ("processes", str(started.processes), "ranks to start on this machine; leave it out under torchrun"),
        ("device", started.device, "auto, cpu or cuda"),
        ("threads", "null", "threads of a rank; null: the cores shared evenly"),
    ]
    return aligned(found)
