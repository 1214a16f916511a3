"""The settings of `ringattn eval`: which model is asked what, over which lengths."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ringattn.settings.launcher import WorkersConfig
from ringattn.settings.lengths import lengths_of
from ringattn.settings.model import ModelConfig, check_model
from ringattn.settings.parallel import MeshConfig, ScheduleConfig, check_parallel, mesh_shape
from ringattn.settings.retrieval import RetrievalConfig, check_retrieval
from ringattn.settings.rules import not_negative, positive
from ringattn.settings.typed import setting, suggest

TASKS = ("perplexity", "passkey", "ruler", "recall", "harness")

# R. Hsieh et al., "RULER" (2024), table 2, by the names used here.
RULER_TASKS = ("single", "multikey", "multivalue", "multiquery", "variables", "common", "frequent")


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """What perplexity is measured on."""

    path: str | None = setting(None, "a UTF-8 text file; null: the King James Bible")
    book: str | None = setting(None, "one book of the Bible: Genesis, or 1 Kings")


@dataclass(frozen=True, kw_only=True)
class RulerConfig:
    """RULER-style tasks."""

    tasks: str = setting("all", f"names with commas between: {', '.join(RULER_TASKS)}")
    haystack: str = setting("noise", "noise (repeated sentences), words (random ones), or a text file")
    needles: int = setting(4, "keys, values and queries of multikey, multivalue and multiquery")
    hops: int = setting(4, "assignments behind the first one in variables")
    common: int = setting(10, "words asked for in common")


@dataclass(frozen=True, kw_only=True)
class RecallConfig:
    """Associative recall."""

    pairs: str = setting("16,64", "numbers of key-value pairs, with commas between")
    power: float = setting(1.0, "of the gaps before queries: 1 uniform, 0.01 as the paper trains, near the pairs")


@dataclass(frozen=True, kw_only=True)
class HarnessConfig:
    """lm-evaluation-harness, where it is installed."""

    tasks: str | None = setting(None, "its tasks, with commas between")
    include_path: str | None = setting(None, "a folder with task files of one's own")
    limit: int | None = setting(None, "documents of each task; null: all")
    fewshot: int | None = setting(None, "examples before each question; null: the task's own number")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """One evaluation, whole."""

    tasks: str = setting("perplexity", f"with commas between: {', '.join(TASKS)}")
    lengths: str = setting("2048", "tokens of a sequence, with commas between: 4096,8k,16k")
    windows: int = setting(8, "perplexity: sequences of the longest length; shorter ones read the same text")
    depths: int = setting(11, "passkey: places of the key, evenly spread from the start to the end")
    samples: int = setting(3, "passkey, ruler, recall: sequences for each figure")
    scoring: Literal["teacher", "greedy"] = setting(
        "teacher", "of answers: in one pass with the earlier ones given, or as greedy decoding writes them"
    )
    seed: int = setting(0, "of everything that is drawn")
    precision: Literal["float32", "bfloat16"] = setting("float32", "of the computation; weights stay as saved")
    chunk: int = setting(1024, "tokens whose logits exist at a time")
    batch_tokens: int = setting(16384, "sequences are read together up to so many tokens in all")
    name: str | None = setting(None, "what the model is called in tables; null: its folder")
    out: str | None = setting(
        None, "where to write: a new folder, or that of a stopped evaluation, which goes on; null: runs/eval-DATE-TIME"
    )
    compare: str | None = setting(None, "result.json of another evaluation, or its folder, to show beside this one")
    model: ModelConfig = field(default_factory=ModelConfig)
    data: TextConfig = field(default_factory=TextConfig)
    ruler: RulerConfig = field(default_factory=RulerConfig)
    recall: RecallConfig = field(default_factory=RecallConfig)
    harness: HarnessConfig = field(default_factory=HarnessConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    launcher: WorkersConfig = field(default_factory=WorkersConfig)
    # Of a landmark model: random access in place of attention over the whole sequence.
    retrieval: RetrievalConfig | None = None

    @property
    def folder(self) -> Path:
        """Of the checkpoint."""
        return Path(str(self.model.path)).expanduser()

    @property
    def label(self) -> str:
        """What the model is called."""
        return self.name or self.folder.resolve().name

    @property
    def task_names(self) -> tuple[str, ...]:
        return names_of(self.tasks, TASKS, "tasks")

    @property
    def ruler_names(self) -> tuple[str, ...]:
        return names_of(
            ",".join(RULER_TASKS) if self.ruler.tasks == "all" else self.ruler.tasks, RULER_TASKS, "ruler.tasks"
        )

    @property
    def token_lengths(self) -> tuple[int, ...]:
        return lengths_of(self.lengths)

    @property
    def pair_numbers(self) -> tuple[int, ...]:
        """Of key-value pairs, ascending."""
        if not re.fullmatch(r"\s*[1-9]\d*\s*(,\s*[1-9]\d*\s*)*", self.recall.pairs):
            raise ValueError(
                f"recall.pairs are whole numbers above 0 with commas between, got {self.recall.pairs!r}: write "
                "recall.pairs=16,64."
            )
        return tuple(sorted({int(word) for word in self.recall.pairs.split(",")}))


def names_of(text: str, known: tuple[str, ...], setting: str) -> tuple[str, ...]:
    """The names in `text`, in the order of `known`. ValueError where one is not known, or there is none."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        if word not in known:
            raise ValueError(f"{setting} has no {word!r}.{suggest(word, known)} There are {', '.join(known)}.")
    if not words:
        raise ValueError(f"{setting} names nothing: write {setting}={known[0]}.")
    return tuple(name for name in known if name in words)


def check(config: EvaluationConfig) -> None:
    """The rules that one field's type cannot state; ValueError where one is broken."""
    if config.model.path is None or config.model.architecture is not None:
        raise ValueError("an evaluation reads a model that was trained: write model.path=FOLDER, a checkpoint folder.")
    check_model(config.model)
    positive({"processes": config.launcher.processes, "threads": config.launcher.threads})
    numbers = ("windows", "depths", "samples", "chunk", "batch_tokens")
    positive({name: getattr(config, name) for name in numbers})
    check_parallel(config.schedule, config.mesh)
    rows, _ = mesh_shape(config.launcher.processes, config.mesh.sequence_parallel)
    positive({f"ruler.{name}": getattr(config.ruler, name) for name in ("needles", "hops", "common")})
    positive({"recall.power": config.recall.power, "harness.limit": config.harness.limit})
    not_negative({"seed": config.seed})
    if config.schedule.backward is not None:
        raise ValueError(
            f"an evaluation runs no backward, got schedule.backward={config.schedule.backward}: leave it out."
        )
    if rows > 1 and "harness" in config.task_names:
        raise ValueError(
            "all ranks read the harness's requests together, got tasks=harness and mesh.sequence_parallel="
            f"{config.mesh.sequence_parallel} of {config.launcher.processes} ranks: leave it out."
        )
    if config.retrieval is not None:
        check_retrieval(config.retrieval)
        _check_random_access(config, config.retrieval)
    _ = config.task_names, config.ruler_names, config.token_lengths, config.pair_numbers
    if config.data.path is not None and config.data.book is not None:
        raise ValueError(
            f"data.book chooses a book of the King James Bible, and data.path={config.data.path} is another text: "
            "write one of them."
        )
    if ("harness" in config.task_names) != (config.harness.tasks is not None):
        raise ValueError(
            f"the harness runs tasks of its own: tasks=harness goes with harness.tasks, got tasks={config.tasks} and "
            f"harness.tasks={config.harness.tasks}: write for example tasks=harness harness.tasks=lambada_openai."
        )


def _check_random_access(config: EvaluationConfig, retrieval: RetrievalConfig) -> None:
    others = [name for name in config.task_names if name != "perplexity"]
    if retrieval.kind == "head" and others:
        raise ValueError(
            "with retrieval.kind=head the tokens of an answer choose blocks for one another, which no generation can, "
            f"got tasks={config.tasks}: write retrieval.kind=token_and_head, or tasks=perplexity."
        )
    plain = ScheduleConfig()
    for name in ("name", "layout", "kernel", "cluster"):
        if getattr(config.schedule, name) != getattr(plain, name):
            raise ValueError(
                "with retrieval settings each rank reads all tokens, by no schedule, got "
                f"schedule.{name}={getattr(config.schedule, name)}: leave it out."
            )


def out_folder(config: EvaluationConfig, *, stamp: str) -> Path:
    """Where to write: not there yet, or left by an evaluation that was stopped. stamp: date and time, for a folder that
    was not named.

    Raises:
        ValueError: it exists, or cannot be made.
    """
    folder = Path(config.out or f"runs/eval-{stamp}").expanduser().absolute()
    stopped = folder.is_dir() and {path.name for path in folder.iterdir()} <= {"parts"}
    if folder.exists() and not stopped:
        raise ValueError(f"an evaluation writes into a folder of its own, but {folder} exists: choose another out=...")
    above = next(above for above in folder.parents if above.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ValueError(f"the folder {folder} cannot be made: choose another out=...")
    return folder
