"""`ringattn schedules route`: how a linear attention's states get past the ranks, step by step. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

from ringattn.launch.parser import Parser, at_least_one

from ringattn.report.state_routes import describe_route, transition_words
from ringattn.report.table import table
from ringattn.schedule.states import (
    StateSizes,
    Transition,
    about_state_route,
    fitted_route,
    make_state_route,
    state_routes,
    verify_state_route,
)
from ringattn.sequence.layout import make_layout
from ringattn.sequence.stretches import RUN_LAYOUTS, stretches


def routes_overview() -> str:
    """The routes of states, and what each does."""
    rows = [[name, "slices" if name == "pipeline" else "-", about_state_route(name)] for name in state_routes()]
    head = ["route of states", "numbers", "what it does"]
    return table(head, rows, left=head)


def show_route(arguments: Sequence[str]) -> int:
    """Print a route's steps, and the bytes that each rank sends.

    Raises:
        ValueError: a mistake in the arguments.
    """
    options = _parser().parse_args(arguments)
    transition = Transition(options.transition)
    sizes = StateSizes(1, options.heads, options.key_dim, options.value_dim, transition)
    passed = stretches(make_layout(options.layout, options.length, options.ranks))
    holders = tuple(stretch.rank for stretch in passed)
    spec = fitted_route(options.route, options.heads, options.value_dim)
    route = make_state_route(spec, options.ranks, holders[::-1] if options.backward else holders)
    traffic = verify_state_route(route, sizes)
    way = "backward: the sequence from its end, gradients of states" if options.backward else "forward"
    print(f"{spec} over {options.ranks} ranks, {options.layout}, {way}")
    print(f"stretches of the sequence lie on ranks {' '.join(map(str, route.holders))}\n")
    print(describe_route(route))
    print(
        f"\na state: {options.heads} heads of {options.key_dim} x {options.value_dim} in fp32, {sizes.state_bytes():,} "
        f"bytes; a transition: {transition_words(transition)}, {sizes.transition_bytes():,} bytes"
    )
    rows = [
        [str(rank), f"{sent:,}", f"{received:,}"]
        for rank, (sent, received) in enumerate(zip(traffic.sent, traffic.received))
    ]
    print(table(["rank", "bytes sent", "bytes received"], rows))
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="ringattn schedules route",
        allow_abbrev=False,
        description="How the states of a linear attention get past the ranks.",
    )
    parser.add_argument("route", metavar="ROUTE", help=f"{', '.join(state_routes())}; pipeline:slices=8")
    for flag, default, what in (
        ("--ranks", 4, "how many ranks"),
        ("--heads", 8, "heads"),
        ("--key-dim", 64, "rows of a head's state"),
        ("--value-dim", 64, "columns of a head's state"),
        ("--length", 1024, "tokens of the whole sequence"),
    ):
        parser.add_argument(flag, type=at_least_one, default=default, metavar="N", help=f"{what} ({default})")
    parser.add_argument("--layout", default="zigzag", help=f"one of {', '.join(RUN_LAYOUTS)} (zigzag)")
    kinds = [kind.value for kind in Transition]
    parser.add_argument("--transition", default="scalar", choices=kinds, help=f"one of {', '.join(kinds)} (scalar)")
    parser.add_argument("--backward", action="store_true", help="show the backward instead of the forward")
    return parser
