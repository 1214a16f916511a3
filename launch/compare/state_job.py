"""Routes of a linear attention's states, side by side on the ranks that there are: measured, predicted, checked."""

from __future__ import annotations

import torch.distributed as dist
from ringattn.launch.compare.assemble import Expected, assemble
from ringattn.launch.compare.stage import Began, FromRank, Teller, gather, make_ranks, prepare, report, setup
from ringattn.launch.compare.state_run import StateReference, StateRun, chunk_inputs
from ringattn.launch.compare.state_settings import StateConfig

from ringattn.layers.linear.effect import Effect
from ringattn.measure import measure_runs
from ringattn.planner.cluster import Cluster
from ringattn.planner.states import predict_states
from ringattn.report.comparison import Comparison, Result
from ringattn.report.state_routes import transition_words
from ringattn.schedule.states import promised_bytes
from ringattn.sequence.layout import Layout
from ringattn.sequence.stretches import stretches


def compare_states(config: StateConfig, *, command: str) -> Comparison | None:
    """As `ringattn.launch.compare.job.compare`, of the states alone: effects of the chunks are made at random."""
    rank, world = dist.get_rank(), dist.get_world_size()
    stage = prepare(config)
    base = make_ranks(config, stage)
    layout = config.cut(world)
    each = layout.chunks_per_rank
    effects, grad = chunk_inputs(config, layout, range(rank * each, (rank + 1) * each))
    effects = Effect(effects.transition.to(stage.device), effects.addition.to(stage.device))
    runs = {
        # Counters and buffers of their own.
        name: StateRun(base.under("ring", layout), layout, name, effects, grad.to(stage.device))
        for name in config.named
    }
    check = StateReference(config, layout, rank).error if config.error else None
    began = Began.now()
    found = measure_runs(
        runs,
        repeats=config.repeats,
        warmup=config.warmup,
        recorded=config.recorded,
        check=check,
        say=Teller(rank, f"{len(runs)} routes over {world} ranks"),
    )
    gathered = gather(found)
    if gathered is None:
        return None
    sizes = config.sizes
    about = setup(
        config,
        stage,
        [where for where, _ in gathered],
        began,
        command=command,
        heads=(sizes.heads, sizes.heads),
        head_dim=sizes.key_dim,
        what=f"states {sizes.key_dim} x {sizes.value_dim} of {config.mixer}, {transition_words(sizes.transition)}",
    )
    results = tuple(_result(config, name, layout, gathered, stage.cluster) for name in config.named)
    return report(Comparison(setup=about, results=results), stage)


def _result(
    config: StateConfig, name: str, layout: Layout, gathered: list[FromRank], cluster: Cluster | None
) -> Result:
    holders = [stretch.rank for stretch in stretches(layout)]
    expected = {}
    for direction in ("forward", "backward"):
        backward = direction == "backward"
        sent = promised_bytes(name, layout.world, holders, config.sizes, backward=backward).sent
        simulation = None
        if cluster is not None:
            simulation = predict_states(name, layout, config.sizes, cluster, backward=backward, record=True)
        expected[direction] = Expected(sent, simulation)
    ranks = [of_rank[name] for _, of_rank in gathered]
    return assemble(name, expected, ranks, clocks=[where.clock for where, _ in gathered], cluster=cluster)
