"""A run's folder: cluster files, reports of `ringattn compare`, and what was measured, to read it all again.

FOLDER/run.json, FOLDER/BED.yaml (the cluster that was measured), FOLDER/CASE/report.jsonl and the other forms of it.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ringattn.planner.cluster import Cluster
from ringattn.planner.cluster_file import read_cluster
from ringattn.planner.predict import predict
from ringattn.report import comparison_json
from ringattn.report.comparison import Comparison, Pass
from validate.cases import HOSTS, Bed, Case, Effort
from validate.figures import Figure


@dataclass(frozen=True)
class Run:
    """What a folder holds. date: ISO 8601, of the measurement."""

    folder: Path
    effort: Effort
    cases: tuple[Case, ...]
    date: str

    @classmethod
    def begin(cls, folder: Path, effort: Effort, cases: list[Case]) -> Run:
        """A run that nothing was measured for yet."""
        folder.mkdir(parents=True, exist_ok=True)
        run = cls(folder, effort, tuple(cases), datetime.date.today().isoformat())
        run.write()
        return run

    def write(self) -> None:
        cases = [
            {
                "kind": case.bed.kind,
                "rate": case.bed.rate,
                "query_heads": case.query_heads,
                "key_heads": case.key_heads,
                "causal": case.causal,
            }
            for case in self.cases
        ]
        plain = {"date": self.date, "effort": self.effort.described(), "cases": cases}
        (self.folder / "run.json").write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")

    def cluster_file(self, bed: Bed) -> Path:
        return self.folder / f"{bed.name}.yaml"

    def report(self, case: Case) -> Path:
        return self.folder / case.name / "report.jsonl"

    def measured(self) -> list[Case]:
        """Those cases whose report is there."""
        return [case for case in self.cases if self.report(case).exists()]

    def figures(self) -> Iterator[Figure]:
        """Every schedule and direction that was measured, predicted now."""
        for case in self.measured():
            cluster = read_cluster(self.cluster_file(case.bed))
            yield from _figures(case, self.effort, cluster, comparison_json.read(self.report(case)))

    def store(self, folder: Path) -> Run:
        """Copy what a replay reads, without timelines."""
        small = replace(self, folder=folder, cases=tuple(self.measured()))
        folder.mkdir(parents=True, exist_ok=True)
        small.write()
        for case in small.cases:
            small.cluster_file(case.bed).write_bytes(self.cluster_file(case.bed).read_bytes())
            small.report(case).parent.mkdir(exist_ok=True)
            comparison_json.write(_small(comparison_json.read(self.report(case))), small.report(case))
        return small


def read_run(folder: Path) -> Run:
    """The run of a folder. ValueError where it holds none."""
    path = folder / "run.json"
    if not path.exists():
        raise ValueError(
            f"{folder} holds no run, for there is no run.json: give the --out or --store of an earlier one"
        )
    found = json.loads(path.read_text(encoding="utf-8"))
    cases = [
        Case(Bed(each["kind"], each["rate"]), each["query_heads"], each["key_heads"], each["causal"])
        for each in found["cases"]
    ]
    return Run(folder, Effort.of(found["effort"]), tuple(cases), found["date"])


def _figures(case: Case, effort: Effort, cluster: Cluster, comparison: Comparison) -> Iterator[Figure]:
    workload = effort.config(case).workload(HOSTS)
    for result in comparison.results:
        for direction, found in result.passes.items():
            simulation = predict(result.schedule, workload, cluster, backward=direction == "backward")
            wire, lane = simulation.wire_bound(cluster)
            yield Figure(
                case=case.name,
                schedule=result.schedule,
                direction=direction,
                measured=found.seconds,
                fastest=found.spread[0],
                predicted=simulation.seconds,
                wire_bound=wire,
                computed=max(simulation.computed),
                connections=0 if lane is None else simulation.connections[lane],
            )


def _small(comparison: Comparison) -> Comparison:
    def cut(found: Pass | None) -> Pass | None:
        if found is None:
            return None
        # Microseconds say all that a clock and a busy machine can.
        repeats = tuple(tuple(round(seconds, 6) for seconds in ranks) for ranks in found.repeats)
        exposed = tuple(round(seconds, 6) for seconds in found.exposed)
        nothing = {"timeline": (), "predicted_timeline": (), "links": (), "predicted_exposed": ()}
        return replace(found, repeats=repeats, exposed=exposed, **nothing)  # type: ignore[arg-type]

    results = (
        replace(result, forward=cut(result.forward), backward=cut(result.backward)) for result in comparison.results
    )
    return replace(comparison, results=tuple(results))
