"""A plan in words: what to set, what it costs in time and memory, and why. No torch."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ringattn.planner.architecture import FULL, LINEAR, SLIDING, HybridArchitecture
from ringattn.planner.plan import USABLE_MEMORY, Plan, Request
from ringattn.planner.reasons import reasons, unnamed_win
from ringattn.planner.search import Candidate
from ringattn.report.state_routes import routes_fields, routes_text
from ringattn.report.table import table


def plan_text(request: Request, plans: Sequence[Plan], *, model: str, top: int) -> str:
    """The best plan in full, the others in a table."""
    best = plans[0]
    cluster = request.cluster
    blocks = [
        f"{model} at {request.length:,} tokens on {cluster.name}: {cluster.world} x {cluster.accelerator.name}, "
        f"{request.dtype}, {request.mask.describe()}",
        *([f"Layers: {request.sizes.describe()}"] if isinstance(request.sizes, HybridArchitecture) else []),
        _settings(request, best, model),
        *_attention(request, best, top),
        *_states(request, best),
        _time(best),
        _memory(request, best),
    ]
    if len(plans) > 1:
        blocks.append(_degrees(plans))
    return "\n\n".join(blocks)


def plan_fields(request: Request, plans: Sequence[Plan], settings: dict[str, Any]) -> dict[str, Any]:
    """The plans as plain data."""
    return {
        "settings": settings,
        "ranks": request.cluster.world,
        "plans": [
            {
                **{key: getattr(made, key) for key in ("sequence_parallel", "data_parallel", "zero", "layout")},
                "forward": asdict(made.forward),
                "backward": asdict(made.backward),
                "step_seconds": dict(made.step.parts()),
                "memory_bytes": dict(made.memory.parts()),
                "tokens_per_second": made.tokens_per_second,
                "mfu": made.mfu,
                "longest": made.longest,
                "reasons": _reasons(made) if _attends(request) else [],
                **_hybrid_fields(request, made),
            }
            for made in plans
        ],
    }


def _hybrid_fields(request: Request, made: Plan) -> dict[str, Any]:
    """What a plain model's plan has not."""
    mixer = request.sizes.mixer()
    fields: dict[str, Any] = {}
    if isinstance(request.sizes, HybridArchitecture):
        fields["layers"] = list(request.sizes.kinds())
    if made.sliding is not None:
        fields["sliding_seconds"] = made.sliding
    if mixer is not None:
        route = None if made.route is None else made.route.route
        fields["states"] = routes_fields(mixer.mixer, mixer.states(), made.routes) | {"route": route}
        fields["halo_seconds"] = made.halo
    return fields


def _settings(request: Request, best: Plan, model: str) -> str:
    zero = "plain data parallel" if best.zero == 0 else f"DeepSpeed ZeRO {best.zero}"
    lines = [f"  mesh.sequence_parallel={best.sequence_parallel}"]
    if _attends(request):
        lines.append(f"  schedule={best.forward.schedule}")
        if best.backward.schedule != best.forward.schedule:
            lines.append(f"  schedule.backward={best.backward.schedule}")
    lines.append(f"  schedule.layout={best.layout}")
    if best.route is not None:
        # A folder has its own, in its config.json.
        name = "state_route" if "/" in model else "model.hybrid.state_route"
        lines.append(f"  {name}={best.route.route}{' (in config.json)' if '/' in model else ''}")
    groups = f"{best.data_parallel} such groups side by side" if best.data_parallel > 1 else "no data parallelism"
    return f"Use {best.sequence_parallel} ranks for a sequence and {groups} ({zero}):\n" + "\n".join(lines)


def _attends(request: Request) -> bool:
    return any(kind != LINEAR for kind in request.sizes.kinds())


def _attention(request: Request, best: Plan, top: int) -> list[str]:
    """Schedules and reasons, where a layer attends."""
    if not _attends(request):
        return []
    reasons = [textwrap.fill(line, 118, subsequent_indent="  ") for line in _reasons(best)]
    if best.sliding is not None and FULL in request.sizes.kinds():
        window = request.sizes.window(SLIDING)
        times = " and ".join(f"{1e3 * seconds:,.3f} ms" for seconds in best.sliding)
        reasons.append(f"A sliding layer, over {window:,} keys, takes {times} under the same schedules.")
    return [_schedules(best, top), "\n".join(reasons)]


def _states(request: Request, best: Plan) -> list[str]:
    """Routes and reasons, where a layer is linear."""
    mixer = request.sizes.mixer()
    if mixer is None:
        return []
    text = routes_text(mixer.mixer, mixer.states(), best.sequence_parallel, best.layout, best.routes)
    if any(best.halo):
        times = " and ".join(f"{1e3 * seconds:,.3f} ms" for seconds in best.halo)
        text += f"\nA convolution's halo, {mixer.conv_width - 1} tokens before each chunk, takes {times}."
    if best.sequence_parallel > 1:
        took = "; ".join(
            f"{name}: {1e3 * attention:,.1f} ms of attention and {1e3 * passing:,.1f} ms for states"
            for name, (attention, passing) in best.layouts.items()
        )
        line = f"All layers of a sequence, forward and backward, by layout: {took}."
        text += "\n" + textwrap.fill(line, 118, subsequent_indent="  ")
    return [text]


def _schedules(best: Plan, top: int) -> str:
    rows = []
    for candidates in (best.found.forward, best.found.backward):
        for number, made in enumerate(candidates[:top]):
            rows.append([_word(made) if not number else "", made.schedule, *_times(made)])
    how = "played by the simulator" if best.forward.played else "estimated, as the world is too large to play"
    head = ["attention", "schedule", "ms", "computation", "busiest link", "not hidden", "that link"]
    return f"One layer's attention ({how}):\n" + table(
        head, rows, left=["attention", "schedule", "that link", "layout", "forward", "backward"]
    )


def _times(made: Candidate) -> list[str]:
    numbers = (made.seconds, made.compute, made.wire, made.exposed)
    return [*(f"{1e3 * value:,.2f}" for value in numbers), made.lane or "-"]


def _word(made: Candidate) -> str:
    return "backward" if made.backward else "forward"


def _reasons(best: Plan) -> list[str]:
    found = reasons(best.found, best.forward, best.backward, best.sequence_parallel)
    wins = [unnamed_win(candidates) for candidates in (best.found.forward, best.found.backward)]
    return found + [win for win in wins if win]


def _time(best: Plan) -> str:
    total = best.step.total
    rows = [[name, f"{seconds:,.3f}", f"{seconds / total:.0%}"] for name, seconds in best.step.parts()]
    return f"A step of {best.tokens:,} tokens: {best.tokens_per_second:,.0f} tokens/s, {best.mfu:.1%} MFU\n" + table(
        ["part", "seconds", "share"], rows, left=["part"]
    )


def _memory(request: Request, best: Plan) -> str:
    usable = USABLE_MEMORY * request.cluster.accelerator.memory
    rows = [[name, f"{size / 1e9:,.2f}"] for name, size in best.memory.parts()]
    return (
        f"Memory of a rank, of {usable / 1e9:.1f} GB to use ({USABLE_MEMORY:.0%} of what there is). The longest "
        f"sequence that fits so: {best.longest:,} tokens\n" + table(["part", "GB"], rows, left=["part"])
    )


def _degrees(plans: Sequence[Plan]) -> str:
    rows = [
        [
            str(made.sequence_parallel),
            str(made.data_parallel),
            str(made.zero),
            made.layout,
            made.forward.schedule,
            made.backward.schedule,
            f"{made.tokens_per_second:,.0f}",
            f"{made.mfu:.1%}",
            f"{made.memory.total / 1e9:,.1f}",
        ]
        for made in plans
    ]
    head = ["ranks a sequence", "groups", "zero", "layout", "forward", "backward", "tokens/s", "MFU", "GB"]
    return "Degrees that fit:\n" + table(
        head, rows, left=["attention", "schedule", "that link", "layout", "forward", "backward"]
    )
