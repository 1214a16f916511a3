"""All transfers in turn, and the graph that explains them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ringattn.launch.probe.graphs import Found, Ranks, explain
from ringattn.launch.probe.traffic import Measured, Scenario, between_groups, find_groups, pair_rates, pairs, together
from ringattn.launch.probe.wire import Small, Wire


def measure(wire: Wire, say: Callable[[str], None]) -> list[Measured]:
    """Every pair alone, then several at once. Collective; the same on every rank."""
    measured: list[Measured] = []
    alone = pairs(wire.world)
    for number, scenario in enumerate(alone, start=1):
        measured.append(wire.alone(scenario))
        say(f"pair {number} of {len(alone)}: rank {scenario.name}, {megabytes(measured[-1].rate)}")
    rates = pair_rates(measured)
    for scenario in [*together(wire.world), *between_groups(find_groups(rates, wire.world))]:
        measured.append(wire.at(scenario, _size(wire, scenario, rates)))
        say(f"{scenario.kind}: {scenario.name}, {megabytes(measured[-1].rate)} in all")
    return measured


def _size(wire: Wire, scenario: Scenario, rates: dict[tuple[int, int], float]) -> float:
    """Bytes of each transfer with which the scenario takes as long as one transfer alone, if its ports are shared."""
    slowest = min(rates.get(flow, min(rates.values())) for flow in scenario.flows)
    return wire.target * slowest / scenario.busiest


def small_messages(wire: Wire, times: int) -> list[Small]:
    """Of neighbours, one pair after the other. Collective; the same on every rank."""
    found = []
    for rank in range(min(wire.world - 1, 8)):
        small = wire.small((rank, rank + 1), times)
        parts = [wire.gather(value)[rank] for value in (small or Small(0.0, 0.0, 0.0))]
        found.append(Small(*parts))
    return found


def found_in(measured: Sequence[Measured], ranks: Ranks, latency: float) -> list[Found]:
    """Shapes that explain the measurements, the best first. ValueError where none does."""
    found = explain(measured, ranks, latency)
    if not found:
        raise ValueError("no graph explains what was measured: run again on a quieter machine")
    return found


def table(measured: Sequence[Measured], found: Found) -> list[str]:
    """Each measurement beside what the graph says to it."""
    lines = [f"{'together':10}  {'ranks':24}  {'measured':>12}  {'by the graph':>12}  {'off':>6}"]
    for each, expected in zip(measured, found.predicted):
        off = expected / each.seconds - 1
        lines.append(
            f"{each.scenario.kind:10}  {each.scenario.name:24}  {megabytes(each.rate):>12}  "
            f"{megabytes(each.rate * each.seconds / expected):>12}  {off:>+6.0%}"
        )
    return lines


def megabytes(rate: float) -> str:
    return f"{rate / 1e6:,.1f} MB/s"
