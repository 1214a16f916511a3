"""`ringattn schedules`: list, show and verify schedules, built-in ones and a user's own. Needs no torch."""

from __future__ import annotations

import argparse
import re
import runpy
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from ringattn.launch.parser import Parser, at_least_one
from ringattn.launch.state_routes import routes_overview, show_route

from ringattn.report.schedule import describe, figures, legend
from ringattn.report.schedule_picture import draw
from ringattn.report.table import table
from ringattn.schedule import about, make_schedule, schedules
from ringattn.schedule.prune import prune
from ringattn.schedule.traffic import Tensors, chunk_bytes
from ringattn.schedule.value import Schedule, Shape
from ringattn.schedule.verify import ScheduleError, verify
from ringattn.sequence.blocks import visible_blocks
from ringattn.sequence.layout import LAYOUTS, Layout, make_layout
from ringattn.sequence.mask import Mask
from ringattn.sequence.suggest import suggest

USAGE = """\
usage: ringattn schedules                           list them
       ringattn schedules show SCHEDULE [options]     its table, and what it asks of a rank
       ringattn schedules verify SCHEDULE [options]   prove that it computes attention, forward and backward
       ringattn schedules route ROUTE [options]       how a linear attention's states get past the ranks

SCHEDULE is a name, with numbers where it takes some (usp:heads=2), or a function from a Shape to a Schedule in a
file of your own: path/to/file.py:function. `ringattn schedules show --help` lists the options."""

# Up to this many ranks the figures are given in chunks as well as in bytes.
_COUNTED_RANKS = 64

# The name that a user's file sees as its `__name__`.
_MODULE = "user_schedule"


def run(arguments: Sequence[str]) -> int:
    """The command; returns 1 where `verify` finds a fault.

    Raises:
        ValueError: a mistake in the arguments.
    """
    if not arguments:
        print(f"{overview()}\n\n{routes_overview()}")
        return 0
    verb, *rest = arguments
    if verb in ("-h", "--help"):
        print(USAGE)
        return 0
    if verb == "route":
        return show_route(rest)
    if verb not in ("show", "verify"):
        hint = suggest(verb, ["show", "verify", "route"])
        if verb in schedules() or ".py" in verb:
            hint = f"; write `ringattn schedules show {verb}`"
        raise ValueError(f"`ringattn schedules` knows show, verify and route, got {verb!r}{hint}")
    options = _options(verb, rest)
    setting = Setting.of(options)
    schedule = load(options.schedule, setting.shape)
    if verb == "verify":
        return prove(schedule, setting)
    return show(schedule, setting, backward=options.backward, svg=options.svg)


def overview() -> str:
    """The built-in schedules with their numbers, and what each does."""
    rows = []
    for name in schedules():
        line, numbers = about(name)
        columns = zip_longest(
            [name], textwrap.wrap(", ".join(numbers) or "-", 26), textwrap.wrap(line, 76), fillvalue=""
        )
        rows += [list(row) for row in columns]
    return table(["schedule", "numbers", "what it does"], rows, left=("schedule", "numbers", "what it does"))


@dataclass(frozen=True)
class Setting:
    """What a schedule is built and verified for."""

    shape: Shape
    layout: Layout
    mask: Mask
    tensors: Tensors

    @classmethod
    def of(cls, options: argparse.Namespace) -> Setting:
        """From the command line. ValueError where numbers do not fit each other."""
        documents = None if options.documents is None else tuple(options.documents)
        mask = Mask(causal=not options.full, window=options.window, documents=documents)
        mask.check(options.length, options.length)
        layout = make_layout(options.layout, options.length, options.ranks, mask)
        shape = Shape(options.ranks, options.query_heads, options.key_heads, layout.chunks_per_rank)
        shape.check()
        sum_bytes = max(4, options.item_bytes)
        tensors = Tensors(1, options.query_heads, options.key_heads, options.head_dim, options.item_bytes, sum_bytes)
        return cls(shape, layout, mask, tensors)

    def title(self) -> str:
        """Mask, layout and length in a few words."""
        return f"{self.mask.describe()}, {self.layout.name}, {self.layout.length:,} tokens"

    def describe(self) -> str:
        """The same, with the sizes of the tensors."""
        heads = f"{self.shape.query_heads} query and {self.shape.key_heads} key heads of {self.tensors.head_dim}"
        return f"{self.title()}, {heads}, {self.tensors.item_bytes} bytes an element"

    def refined(self, schedule: Schedule) -> Layout:
        """The layout cut as the schedule cuts. ScheduleError where the schedule is for something else."""
        if schedule.world != self.shape.world:
            raise ScheduleError(f"schedule {schedule.name!r} is for {schedule.world} ranks, not {self.shape.world}")
        if schedule.chunks_per_rank < 1 or schedule.chunks_per_rank % self.layout.chunks_per_rank:
            raise ScheduleError(
                f"schedule {schedule.name!r} has {schedule.chunks_per_rank} chunks a rank, which must be a multiple of "
                f"the layout's {self.layout.chunks_per_rank}; build it from shape.chunks_per_rank"
            )
        if schedule.heads and schedule.heads[-1][1] != self.shape.query_heads:
            raise ScheduleError(
                f"schedule {schedule.name!r} covers {schedule.heads[-1][1]} query heads of {self.shape.query_heads}; "
                "build it from shape.query_heads"
            )
        return self.layout.refine(schedule.chunks_per_rank // self.layout.chunks_per_rank)


def show(schedule: Schedule, setting: Setting, *, backward: bool, svg: Path | None) -> int:
    """Print the table and the figures of one direction, as it runs under the mask; write the picture if asked to."""
    direction = "backward" if backward else "forward"
    layout = setting.refined(schedule)
    visible = visible_blocks(setting.mask, layout, layout)
    verify(schedule, visible, backward=backward)
    pruned = prune(schedule, visible)
    if svg is not None:
        drawn = draw(pruned, backward=backward, subtitle=setting.title(), layout=setting.layout, visible=visible)
        try:
            svg.write_text(drawn, encoding="utf-8")
        except OSError as error:
            raise ValueError(f"the picture could not be written to {svg}: {error.strerror}") from error
    print(f"{schedule.name}, {direction}, {schedule.world} ranks: {setting.describe()}\n")
    print(describe(pruned, backward=backward))
    print(f"\n{legend(pruned, backward=backward)}\n")
    print(_figures(pruned, setting, backward=backward))
    if svg is not None:
        print(f"\npicture written to {svg}")
    return 0


def prove(schedule: Schedule, setting: Setting) -> int:
    """Print OK and the figures of both directions, or the first fault."""
    try:
        layout = setting.refined(schedule)
        visible = visible_blocks(setting.mask, layout, layout)
    except ScheduleError as mismatch:
        print(f"FAULT: {mismatch}")
        return 1
    # What holds of the backward holds of the forward too: it has the same tasks and parcels, and fewer results.
    fault = _fault(schedule, visible, backward=True)
    if fault is not None:
        earlier = _fault(schedule, visible, backward=False)
        print(f"FAULT in the backward: {fault}" if earlier is None else f"FAULT in the forward: {earlier}")
        return 1
    print(f"OK: {schedule.name} over {schedule.world} ranks computes every block once and brings every result home")
    print(setting.describe())
    pruned = prune(schedule, visible)
    for backward in (False, True):
        print(f"\n{'backward' if backward else 'forward'}\n{_figures(pruned, setting, backward=backward)}")
    return 0


def _fault(schedule: Schedule, visible: NDArray[np.bool_], *, backward: bool) -> ScheduleError | None:
    try:
        verify(schedule, visible, backward=backward)
    except ScheduleError as fault:
        return fault
    return None


def _figures(schedule: Schedule, setting: Setting, *, backward: bool) -> str:
    layout = setting.refined(schedule)
    visible = visible_blocks(setting.mask, layout, layout)
    size = chunk_bytes(schedule, layout, layout, setting.tensors, backward=backward)
    # Counting takes a pass of its own, which is a long one for hundreds of ranks.
    counted = verify(schedule, visible, backward=backward) if schedule.world <= _COUNTED_RANKS else None
    return figures(verify(schedule, visible, backward=backward, size=size), counted)


# Where a schedule comes from.


def load(spec: str, shape: Shape) -> Schedule:
    """A built-in schedule by its name, or a user's own by `path/to/file.py:function`.

    Raises:
        ValueError: there is no such name, file or function, or the function does not return a `Schedule`.
    """
    own = re.fullmatch(r"(?P<path>.+\.py)(:(?P<function>\w*))?", spec)
    if own is None:
        return make_schedule(spec, shape)
    path = Path(own["path"])
    # As for `python file.py`: what stands beside the file can be imported.
    sys.path.insert(0, str(path.parent.absolute()))
    try:
        made = _function(path, own["function"] or "")(shape)
    finally:
        sys.path.pop(0)
    if not isinstance(made, Schedule):
        raise ValueError(
            f"{spec} must return a ringattn.Schedule, got {type(made).__name__}; end it with `return plan.build()`"
        )
    return made


def _function(path: Path, name: str) -> Callable[[Shape], object]:
    if not path.is_file():
        near = sorted(str(other) for other in path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise ValueError(f"there is no file {path}{suggest(str(path), near)}")
    found = runpy.run_path(str(path), run_name=_MODULE)
    functions = [key for key, value in found.items() if callable(value) and getattr(value, "__module__", "") == _MODULE]
    if name not in functions:
        public = [key for key in functions if not key.startswith("_")]
        listed = f"it has {', '.join(public)}" if public else "it has none"
        problem = f"has no function {name!r}" if name else "needs the name of a function"
        raise ValueError(f"{path} {problem}{suggest(name, functions)}: {listed}; write {path}:function")
    chosen: Callable[[Shape], object] = found[name]
    return chosen


# The command line.


def _options(verb: str, arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog=f"ringattn schedules {verb}",
        allow_abbrev=False,
        description="SCHEDULE is a name (usp:heads=2 with numbers), or path/to/file.py:function of your own.",
    )
    parser.add_argument("schedule", metavar="SCHEDULE", help="a name, or path/to/file.py:function")
    for flag, default, what in (
        ("--ranks", 4, "how many ranks"),
        ("--query-heads", 8, "query heads"),
        ("--key-heads", 8, "key and value heads"),
        ("--head-dim", 64, "numbers in a head"),
        ("--item-bytes", 2, "bytes of one number of q, k, v"),
        ("--length", 1024, "tokens of the whole sequence"),
    ):
        parser.add_argument(flag, type=at_least_one, default=default, metavar="N", help=f"{what} ({default})")
    parser.add_argument("--layout", default="zigzag", help=f"one of {', '.join(LAYOUTS)} (zigzag)")
    parser.add_argument("--full", action="store_true", help="no causal mask")
    parser.add_argument("--window", type=int, metavar="N", help="keys that a query sees, its own included")
    parser.add_argument("--documents", type=_bounds, metavar="0,N,...", help="cumulative lengths of packed documents")
    if verb == "show":
        parser.add_argument("--backward", action="store_true", help="show the backward instead of the forward")
        parser.add_argument("--svg", type=Path, metavar="FILE", help="write a picture as well")
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        parser.error(f"`{parser.prog}` has no argument {unknown[0]}{suggest(unknown[0], known)}")
    return options


def _bounds(words: str) -> list[int]:
    try:
        return [int(word) for word in words.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be whole numbers with commas between, got {words!r}") from None
