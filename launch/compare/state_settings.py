"""The settings of `ringattn compare mixer=...`: routes of a linear attention's states. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

from ringattn.launch.compare.settings import ITEM_BYTES, Comparing, check_sizes, read_as
from ringattn.launch.words import aligned, rows, setting

from ringattn.planner.mixers import MIXER_TRANSITIONS
from ringattn.schedule.states import StateSizes, fitted_route, state_routes
from ringattn.sequence.layout import Layout, make_layout
from ringattn.sequence.stretches import RUN_LAYOUTS, stretches
from ringattn.sequence.suggest import suggest
from ringattn.settings.lengths import Tokens


@dataclass(frozen=True, kw_only=True)
class StateConfig(Comparing):
    """What states to pass on, by which routes, how often, and what to write."""

    mixer: str = setting("gated_deltanet", f"whose transitions travel: {', '.join(sorted(MIXER_TRANSITIONS))}")
    routes: str = setting("all", "names with commas between: allgather,ring,pipeline:slices=8; or all")
    layout: str = setting("zigzag", f"how the sequence is cut: {', '.join(RUN_LAYOUTS)}")
    # What travels does not depend on it.
    length: Tokens = setting(2048, "tokens of the whole sequence")  # noqa: RUF009 (a field)
    batch: int = setting(1, "sequences at a time")
    heads: int = setting(8, "heads; of hgrn the channels, with key_dim=1 value_dim=1")
    key_dim: int = setting(64, "rows of a head's state")
    value_dim: int = setting(64, "columns of a head's state")
    dtype: Literal["float32", "float64"] = setting("float32", "of states and transitions, float32 or float64")
    error: bool = setting(True, "errors against the recurrence in fp64")

    @property
    def named(self) -> list[str]:
        """The routes, one by one."""
        words = state_routes() if self.routes == "all" else [word.strip() for word in self.routes.split(",")]
        return list(dict.fromkeys(filter(None, words)))

    @property
    def sizes(self) -> StateSizes:
        transition = MIXER_TRANSITIONS[self.mixer]
        return StateSizes(self.batch, self.heads, self.key_dim, self.value_dim, transition, ITEM_BYTES[self.dtype])

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
    config = read_as(StateConfig, words, world=world)
    _check(config)
    return config


def _check(config: StateConfig) -> None:
    known = sorted(MIXER_TRANSITIONS)
    if config.mixer not in known:
        raise ValueError(f"unknown mixer {config.mixer!r}{suggest(config.mixer, known)}; there are {', '.join(known)}")
    check_sizes(config, ("length", "batch", "heads", "key_dim", "value_dim"), what="routes")
    stretches(config.cut(config.ranks))
    if not config.named:
        raise ValueError("there is no route to run: name some with routes=allgather,ring, or leave it out.")
    for spec in config.named:
        fitted_route(spec, config.heads, config.value_dim)


def states_help_text() -> str:
    """The settings with their meanings and defaults."""
    shared = {item.name for item in fields(Comparing)} | {"layout", "length", "batch"}
    return aligned([row for row in rows(StateConfig) if row[0] not in shared])
