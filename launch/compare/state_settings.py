"""The settings of `ringattn compare mixer=...`: routes of a linear attention's states. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ringattn.launch.compare.settings import OWN_CLUSTER
from ringattn.launch.words import aligned, mapping, rows, setting

from ringattn.planner.states import MIXER_TRANSITIONS
from ringattn.schedule.states import StateSizes, fitted_route, state_routes
from ringattn.sequence.layout import Layout, make_layout, suggest
from ringattn.sequence.stretches import stretches
from ringattn.settings.launcher import WorkersConfig
from ringattn.settings.typed import build

_ITEM_BYTES = {"float32": 4, "float64": 8}

_SHORT_FORMS = {"ranks": "launcher.processes"}


@dataclass(frozen=True, kw_only=True)
class StateConfig:
    """What states to pass on, by which routes, how often, and what to write."""

    mixer: str = setting("gated_deltanet", f"whose transitions travel: {', '.join(sorted(MIXER_TRANSITIONS))}")
    routes: str = setting("all", "names with commas between: allgather,ring,pipeline:slices=8; or all")
    layout: str = setting("zigzag", "how the sequence is cut: balanced, contiguous or zigzag")
    length: int = setting(2048, "tokens of the whole sequence; what travels does not depend on it")
    batch: int = setting(1, "sequences at a time")
    heads: int = setting(8, "heads; of hgrn the channels, with key_dim=1 value_dim=1")
    key_dim: int = setting(64, "rows of a head's state")
    value_dim: int = setting(64, "columns of a head's state")
    dtype: Literal["float32", "float64"] = setting("float32", "of states and transitions")
    repeats: int = setting(5, "timed rounds; medians want 3 or more")
    warmup: int = setting(1, "rounds before them")
    recorded: int = setting(3, "rounds after them with timelines, of which the middle one is shown")
    error: bool = setting(True, "errors against the recurrence in fp64")
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
    def named(self) -> list[str]:
        """The routes, one by one."""
        words = state_routes() if self.routes == "all" else [word.strip() for word in self.routes.split(",")]
        return list(dict.fromkeys(filter(None, words)))

    @property
    def sizes(self) -> StateSizes:
        transition = MIXER_TRANSITIONS[self.mixer]
        return StateSizes(self.batch, self.heads, self.key_dim, self.value_dim, transition, _ITEM_BYTES[self.dtype])

    def cut(self, world: int) -> Layout:
        return make_layout(self.layout, self.length, world)


def asks_for_states(words: Sequence[str]) -> bool:
    """Whether the words of a command line are about states, and not about attention."""
    return any(word.partition("=")[0] in ("mixer", "routes") for word in words)


def read_states(words: Sequence[str], *, world: int | None = None) -> StateConfig:
    """The configuration that `key=value` words make. world: the number of ranks where a launcher has started them.

    Raises:
        ValueError: an unknown key or value, with a suggestion; a rule that the values break.
    """
    found = mapping(StateConfig, words, command="ringattn compare", short_forms=_SHORT_FORMS)
    if world is not None:
        given = found.setdefault("launcher", {}).setdefault("processes", world)
        if given != world:
            raise ValueError(f"ranks={given} is for starting them here, but {world} are started already: leave it out")
    config = build(StateConfig, found)
    _check(config)
    return config


def _check(config: StateConfig) -> None:
    known = sorted(MIXER_TRANSITIONS)
    if config.mixer not in known:
        raise ValueError(f"unknown mixer {config.mixer!r}{suggest(config.mixer, known)}; there are {', '.join(known)}")
    for name in ("length", "batch", "heads", "key_dim", "value_dim", "repeats", "warmup", "recorded", "timeout"):
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} must be above 0, got {getattr(config, name)}: write for example {name}=1.")
    if config.ranks < 2:
        raise ValueError(
            f"routes are compared over two ranks or more, since one alone sends nothing, got {config.ranks}: write "
            "ranks=2, or let torchrun start more."
        )
    stretches(config.cut(config.ranks))
    if not config.named:
        raise ValueError("there is no route to run: name some with routes=allgather,ring, or leave it out.")
    for spec in config.named:
        fitted_route(spec, config.heads, config.value_dim)


def states_help_text() -> str:
    """The settings with their meanings and defaults."""
    return aligned([row for row in rows(StateConfig) if row[0] in ("mixer", "routes", "heads", "key_dim", "value_dim")])
