"""A comparison of attention's schedules on the ranks that there are: prepare, measure, put together, report."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch.distributed as dist
from ringattn.launch.compare.assemble import assemble, expected_of
from ringattn.launch.compare.input import Reference, make_shards
from ringattn.launch.compare.settings import ERROR_LENGTH, CompareConfig
from ringattn.launch.compare.stage import Began, FromRank, Teller, gather, make_ranks, prepare, report, setup
from ringattn.launch.rank import Refused, together
from ringattn.launch.schedules import load

from ringattn.attention import SequenceParallel
from ringattn.measure import Shards, measure
from ringattn.planner.choose import AUTO
from ringattn.planner.cluster import Cluster
from ringattn.planner.predict import shape_of
from ringattn.report.comparison import Comparison, Result
from ringattn.runtime.agreement import Disagreement
from ringattn.runtime.arguments import Options
from ringattn.schedule.value import Schedule


@dataclass(frozen=True)
class _Candidate:
    """A schedule that can be run: `sp` runs it, `schedules` are those of its `forward` and its `backward`. name: in the
    report; that of `auto` says what was chosen."""

    name: str
    sp: SequenceParallel
    schedules: dict[str, Schedule]


def compare(config: CompareConfig, *, command: str) -> Comparison | None:
    """Run, report and print; the comparison on rank 0, None elsewhere. Collective over torch's default group, a gloo
    one with `config.ranks` ranks.

    Raises:
        Refused: on every rank, where the folder, the cluster, a device or the settings do not serve on one.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    stage = prepare(config)
    base = make_ranks(config, stage, kernel=config.kernel)
    shards = make_shards(config, stage.device, rank=rank, world=world)
    candidates, skipped = _candidates(config, base, shards)
    wanted = config.length <= ERROR_LENGTH if config.error is None else config.error
    check = Reference(config, rank=rank, world=world).error if wanted and candidates else None
    say = Teller(rank, f"{len(candidates)} of {len(config.named)} schedules over {world} ranks")
    began = Began.now()
    found = measure(
        {name: candidate.sp for name, candidate in candidates.items()},
        shards,
        repeats=config.repeats,
        warmup=config.warmup,
        recorded=config.recorded,
        check=check,
        say=say,
    )
    gathered = gather(found)
    if gathered is None:
        return None
    about = setup(
        config,
        stage,
        [where for where, _ in gathered],
        began,
        command=command,
        heads=(config.query_heads, config.key_heads),
        head_dim=config.head_dim,
        what=config.mask.describe(),
    )
    results = _results(config, candidates, skipped, gathered, stage.cluster)
    return report(Comparison(setup=about, results=results), stage)


def _candidates(
    config: CompareConfig, base: SequenceParallel, shards: Shards
) -> tuple[dict[str, _Candidate], dict[str, str]]:
    """The schedules that can be run, and why others cannot, by name; on every rank the same."""
    found: dict[str, _Candidate] = {}
    skipped: dict[str, str] = {}
    for spec in config.named:
        name = config.label(spec)
        try:
            candidate = together(partial(_candidate, spec, config, base, shards))
            if ".py" in name:
                # A file of one's own need not say the same on every host.
                base.agree({f"the {side}'s schedule": s.digest()[:12] for side, s in candidate.schedules.items()})
        except (Refused, Disagreement) as refusal:
            skipped[name] = str(refusal)
        else:
            found[name] = candidate
    return found, skipped


def _candidate(spec: str, config: CompareConfig, base: SequenceParallel, shards: Shards) -> _Candidate:
    shape = shape_of(config.workload(base.world))
    forward, backward = (
        load(name, shape) if ".py" in name else name
        for name in (spec, spec if config.backward == "same" else config.backward)
    )
    # The layout of this length and mask: by its name the object would cut `balanced` without the mask.
    layout = config.workload(base.world).query_layout
    sp = base.under(forward, layout, backward=backward)
    mask = config.mask
    call = sp.call(
        shards.query,
        shards.key,
        shards.value,
        Options(causal=mask.causal, window=mask.window, documents=mask.documents, length=config.length),
    )
    schedules = {"forward": call.forward_plan.schedule, "backward": call.backward_plan.schedule}
    name = config.label(spec)
    if AUTO in (spec, config.backward):
        name = f"{name}: {' / '.join(dict.fromkeys(call.names))}"
    return _Candidate(name, sp, schedules)


def _results(
    config: CompareConfig,
    candidates: dict[str, _Candidate],
    skipped: dict[str, str],
    gathered: list[FromRank],
    cluster: Cluster | None,
) -> tuple[Result, ...]:
    """In the order in which schedules were named."""
    clocks, workload = [where.clock for where, _ in gathered], config.workload(len(gathered))
    found = {name: Result(schedule=name, skipped=reason) for name, reason in skipped.items()}
    for name, candidate in candidates.items():
        ranks = [of_rank[name] for _, of_rank in gathered]
        expected = expected_of(candidate.schedules, workload, cluster)
        found[name] = assemble(candidate.name, expected, ranks, clocks=clocks, cluster=cluster)
    return tuple(found[config.label(spec)] for spec in config.named)
