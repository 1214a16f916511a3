"""The settings of `ringattn compare`: words of the command line into one checked value. No torch."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from ringattn.launch.words import aligned, join, mapping, rows, setting

from ringattn.planner.choose import AUTO
from ringattn.planner.cluster import Cluster
from ringattn.planner.cluster_file import cluster_names, read_cluster
from ringattn.planner.costs import Workload, kernel_for
from ringattn.schedule import parse, schedules
from ringattn.schedule.traffic import Tensors
from ringattn.sequence.layout import LAYOUTS, make_layout
from ringattn.sequence.mask import Mask
from ringattn.settings.launcher import WorkersConfig
from ringattn.settings.lengths import Tokens
from ringattn.settings.parallel import check_kernel
from ringattn.settings.rules import positive
from ringattn.settings.typed import build

# Errors are worked out up to this length unless asked for: the time of the reference grows with its square.
ERROR_LENGTH = 8192

# The cluster that `cluster=auto` takes, where it is described.
OWN_CLUSTER = "this_machine"

ITEM_BYTES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}

_SHORT_FORMS = {
    "ranks": "launcher.processes",
    "processes": "launcher.processes",
    "threads": "launcher.threads",
    "device": "launcher.device",
}

Kind = TypeVar("Kind", bound="Comparing")


@dataclass(frozen=True, kw_only=True)
class Comparing:
    """What every comparison says of how often it runs, where, and what it predicts for."""

    repeats: int = setting(5, "timed rounds; medians want 3 or more")
    warmup: int = setting(1, "rounds before them")
    recorded: int = setting(3, "rounds after them with timelines, of which the middle one is shown")
    seed: int = setting(0, "of the input")
    cluster: str | None = setting("auto", f"for predictions: a name or a file; auto: {OWN_CLUSTER}; null: none")
    nodes: int | None = setting(None, "hosts of that cluster, instead of its file's number")
    folder: str | None = setting(None, "where to write; null: runs/compare-DATE-TIME")
    timeout: float = setting(300.0, "seconds after which a rank that does not answer is given up")
    launcher: WorkersConfig = field(default_factory=WorkersConfig)

    @property
    def ranks(self) -> int:
        return self.launcher.processes

    @property
    def attends_in(self) -> str | None:
        """The dtype of attention, for which a cluster needs a rate; None where none is computed."""
        return None


@dataclass(frozen=True, kw_only=True)
class CompareConfig(Comparing):
    """What to run, on what input, how often, and what to write."""

    schedules: str = setting("all", "names with commas between, auto among them, or path/to/file.py:function; or all")
    backward: str = setting("same", "the schedule of every backward; same: each schedule's own")
    layout: str = setting("zigzag", f"how the sequence is cut: {', '.join(LAYOUTS)}")
    length: Tokens = setting(2048, "tokens of the whole sequence: 8192, 8k")  # noqa: RUF009 (a field)
    batch: int = setting(1, "sequences at a time")
    query_heads: int = setting(8, "query heads")
    key_heads: int = setting(2, "key and value heads, of which the query heads are a multiple")
    head_dim: int = setting(64, "numbers in a head")
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = setting("float32", "of query, key and value")
    causal: bool = setting(True, "whether a query sees no key behind its own position")
    window: int | None = setting(None, "how many keys a query sees at most, its own included")
    documents: str | None = setting(None, "cumulative lengths of packed documents: 0,500,2048")
    kernel: str = setting("auto", "of attention on one rank; see `ringattn doctor`")
    error: bool | None = setting(None, f"errors against fp64; null: up to {ERROR_LENGTH:,} tokens")

    @property
    def attends_in(self) -> str:
        return self.dtype

    @property
    def mask(self) -> Mask:
        bounds = None if self.documents is None else tuple(int(word) for word in self.documents.split(","))
        return Mask(self.causal, self.window, bounds)

    @property
    def named(self) -> list[str]:
        """The schedules, one by one."""
        return schedules() if self.schedules == "all" else split_schedules(self.schedules)

    def label(self, spec: str) -> str:
        """What a schedule is called in the report."""
        return spec if self.backward in ("same", spec) else f"{spec}, backward {self.backward}"

    def workload(self, world: int) -> Workload:
        """The attention call, as the planner counts it."""
        item = ITEM_BYTES[self.dtype]
        layout = make_layout(self.layout, self.length, world, self.mask)
        tensors = Tensors(self.batch, self.query_heads, self.key_heads, self.head_dim, item, max(4, item))
        return Workload(layout, layout, self.mask, tensors, self.dtype)


def read(words: Sequence[str], *, world: int | None = None) -> CompareConfig:
    """The configuration that `key=value` words make. world: the number of ranks where a launcher has started them.

    Raises:
        ValueError: an unknown key or value, with a suggestion; a rule that the values break.
    """
    config = read_as(CompareConfig, words, world=world)
    _check(config)
    return config


def read_as(kind: type[Kind], words: Sequence[str], *, world: int | None) -> Kind:
    """The configuration of a kind of comparison that words make; its own rules are yet to be checked."""
    found = mapping(kind, words, command="ringattn compare", short_forms=_SHORT_FORMS)
    join(found.setdefault("launcher", {}), world, name="ranks")
    return build(kind, found)


def split_schedules(words: str) -> list[str]:
    """Names at commas; a number that follows a comma belongs to the name before it.

    >>> split_schedules("ring,grid:heads=2,queries=1,usp")
    ['ring', 'grid:heads=2,queries=1', 'usp']
    """
    found: list[str] = []
    for word in filter(None, (part.strip() for part in words.split(","))):
        if found and re.fullmatch(r"\w+=\w*", word) and ":" in found[-1]:
            found[-1] += f",{word}"
        else:
            found.append(word)
    return list(dict.fromkeys(found))


def _check(config: CompareConfig) -> None:
    """The rules that one setting's type cannot state."""
    check_sizes(config, ("length", "batch", "query_heads", "key_heads", "head_dim"), what="schedules")
    if config.length < config.ranks:
        raise ValueError(
            f"each rank needs a token at least, got length={config.length} for {config.ranks} ranks: write for example "
            f"length={1024 * config.ranks}."
        )
    if config.query_heads % config.key_heads:
        raise ValueError(
            "query heads share key heads evenly: query_heads must be a multiple of key_heads, got "
            f"{config.query_heads} and {config.key_heads}: write for example key_heads={config.query_heads}."
        )
    make_layout(config.layout, 0, 1)
    check_kernel(config.kernel)
    if config.documents is not None and not re.fullmatch(r"\d+(,\d+)*", config.documents):
        raise ValueError(f"documents are whole numbers with commas between, got {config.documents!r}: write 0,500,1000")
    config.mask.check(config.length, config.length)
    if not config.named:
        raise ValueError("there is no schedule to run: name some with schedules=ring,tokenring, or leave it out.")
    for spec in config.named if config.backward == "same" else [*config.named, config.backward]:
        if ".py" not in spec and spec != AUTO:
            parse(spec.partition(":")[0])


def check_sizes(config: Comparing, sizes: Sequence[str], *, what: str) -> None:
    """The rules of numbers that every comparison has, and of its own `sizes`; ValueError where one is broken."""
    positive({name: getattr(config, name) for name in (*sizes, "repeats", "warmup", "recorded", "timeout")})
    if config.ranks < 2:
        raise ValueError(
            f"{what} are compared over two ranks or more, since one alone sends nothing, got {config.ranks}: write "
            "ranks=2, or let torchrun start more."
        )


def folder_of(config: Comparing, *, now: float | None = None) -> Path:
    """Where to write; not there yet.

    Raises:
        ValueError: it exists.
    """
    named = config.folder or f"runs/compare-{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}"
    folder = Path(named).expanduser().absolute()
    if folder.exists():
        raise ValueError(
            f"a comparison writes into a folder of its own, but {folder} exists: choose another folder=..."
        )
    if not os.access(next(above for above in folder.parents if above.exists()), os.W_OK):
        raise ValueError(f"the folder {folder} cannot be made: choose another folder=...")
    return folder


def cluster_of(config: Comparing) -> tuple[Cluster | None, str]:
    """The cluster to predict for, if any, and in words which one, or why none.

    Raises:
        ValueError: one that was asked for is not there, has fewer ranks or no rate for the dtype.
    """
    if config.cluster is None:
        return None, "nothing is predicted (cluster=null)"
    name = OWN_CLUSTER if config.cluster == "auto" else config.cluster
    try:
        cluster = read_cluster(name, nodes=config.nodes)
        if cluster.world < config.ranks:
            raise ValueError(
                f"cluster {cluster.name!r} has {cluster.world} ranks, but {config.ranks} are compared: describe more "
                "hosts, or use fewer ranks"
            )
        if config.attends_in is not None:
            kernel_for(cluster.accelerator, config.attends_in)
    except ValueError as error:
        if config.cluster != "auto":
            raise
        reason = str(error) if OWN_CLUSTER in cluster_names() else f"no cluster {OWN_CLUSTER!r} is described"
        return None, f"nothing is predicted: {reason}; `ringattn doctor --links` describes the ranks at hand"
    return cluster.first(config.ranks), f"predicted for cluster {cluster.name}"


def help_text() -> str:
    """The settings with their meanings and defaults."""
    found = [
        ("ranks", "2", "or processes=: ranks to start on this machine; leave it out under torchrun"),
        *rows(CompareConfig),
    ]
    found.append(("launcher.device", WorkersConfig().device, "auto, cpu or cuda"))
    found.append(("launcher.threads", "null", "threads of a rank; null: the cores shared evenly"))
    return aligned(found)
