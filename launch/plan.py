"""`ringattn plan`: the best schedules, layout and degrees for a model and a length on a cluster, with reasons.

Needs no GPU, no workers and no torch: clusters are described (`ringattn.planner.cluster_file`), schedules simulated.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from ringattn.launch.words import aligned, read, rows, setting

from ringattn.settings.lengths import length_of

HELP = """\
usage: ringattn plan [setting=value ...]

Which schedule, layout and degree of sequence parallelism to use on a cluster, for a model and a length, and why; what
a step takes and what fits. Nothing is run: clusters are described, schedules are simulated.

  ringattn plan cluster=h100_8x nodes=4 model=llama3_8b length=1M
  ringattn plan cluster=my_cluster.yaml model=/path/to/checkpoint length=128k zero=1
  ringattn plan cluster=h100_8x nodes=2 model=llama3_8b length=1M mixer=gated_deltanet

Settings, their defaults and meanings:
{settings}

Clusters: {clusters}; or a file of your own (docs/clusters.md).
Models: {models};
or a Hugging Face checkpoint folder, a GGUF file, a name on the Hugging Face hub.
"""


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """What is asked."""

    cluster: str = setting("this_machine", "a name or a file")
    nodes: int | None = setting(None, "hosts of that cluster, instead of its file's number")
    model: str = setting("llama3_8b", "a name, a checkpoint folder or a GGUF file")
    length: str = setting("128k", "tokens of a sequence; 128k is 131,072, 1M is 1,048,576")
    batch: int | None = setting(None, "sequences of a step over all ranks; null: one for each group of ranks")
    sequence_parallel: int | None = setting(None, "ranks that share a sequence; null: searched")
    dtype: Literal["bfloat16", "float16", "float32"] = setting("bfloat16", "of activations")
    causal: bool = setting(True, "whether a token sees no later one")
    window: int | None = setting(None, "how many keys a query sees at most, its own included")
    layout: str = setting("zigzag,contiguous", "layouts to choose from")
    checkpointing: bool = setting(True, "layers are computed again in the backward")
    keep_attention: bool = setting(True, "but for attention")
    zero: int | None = setting(None, "ZeRO stage, 0 to 3; null: the lowest that fits")
    mixer: str | None = setting(None, "also how the states of such a linear attention in the model's width travel")
    top: int = setting(4, "schedules to show of each direction")
    json: bool = setting(False, "print JSON instead")


def run(arguments: Sequence[str]) -> int:
    """The command; returns the exit code.

    Raises:
        ValueError: a mistake in the settings, a cluster file or a model; a model that fits under no plan.
    """
    from ringattn.planner.cluster_file import cluster_names

    if {"-h", "--help"} & set(arguments):
        clusters, models = ", ".join(cluster_names()), ", ".join(model_names())
        print(HELP.format(settings=aligned(rows(PlanConfig)), clusters=clusters, models=models), end="")
        return 0
    from ringattn.planner.plan import plan
    from ringattn.report.plan import plan_fields, plan_text
    from ringattn.sequence.layout import make_layout

    config = read(PlanConfig, arguments, command="ringattn plan")
    request = request_of(config)
    states = None if config.mixer is None else states_of(config.mixer, request.sizes.hidden_size)
    plans = plan(request)
    fields, blocks = {}, []
    if config.mixer is not None and states is not None:
        from ringattn.planner.states import rank_routes
        from ringattn.report.state_routes import routes_fields, routes_text

        best = plans[0]
        ranks, layout = best.sequence_parallel, best.layout
        cut = make_layout(layout, request.length, ranks, request.mask)
        routes = rank_routes(cut, states, request.cluster.first(ranks))
        fields = {"states": routes_fields(config.mixer, states, routes)}
        blocks = [routes_text(config.mixer, states, ranks, layout, routes)]
    if config.json:
        print(json.dumps(plan_fields(request, plans, asdict(config)) | fields, indent=2))
    else:
        print("\n\n".join([plan_text(request, plans, model=config.model, top=config.top), *blocks]))
    return 0


def states_of(mixer: str, hidden_size: int) -> Any:
    """The states of one layer of that mixer, in the sizes that its paper has for such a width. ValueError where there
    is no such mixer."""
    from ringattn.planner.mixers import MIXER_NAMES, LinearSizes, paper_sizes
    from ringattn.sequence.suggest import suggest

    if mixer not in MIXER_NAMES:
        raise ValueError(f"unknown mixer {mixer!r}{suggest(mixer, MIXER_NAMES)}; there are {', '.join(MIXER_NAMES)}")
    heads, key_dim, value_dim = paper_sizes(mixer, hidden_size)
    return LinearSizes(mixer=mixer, hidden_size=hidden_size, heads=heads, key_dim=key_dim, value_dim=value_dim).states()


def request_of(config: PlanConfig) -> Any:
    """The settings as the planner's request."""
    from ringattn.planner.cluster_file import read_cluster
    from ringattn.planner.plan import Request
    from ringattn.sequence.layout import make_layout
    from ringattn.sequence.mask import Mask

    if config.top < 1:
        raise ValueError(f"top must be at least 1, got {config.top}: write for example top=4.")
    if config.zero is not None and not 0 <= config.zero <= 3:
        raise ValueError(f"zero is a stage from 0 to 3, got {config.zero}: write for example zero=1.")
    for name in ("nodes", "batch", "sequence_parallel"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}: write for example {name}=1.")
    layouts = tuple(word.strip() for word in config.layout.split(",") if word.strip())
    for name in layouts or ("",):
        make_layout(name, 0, 1)
    return Request(
        cluster=read_cluster(config.cluster, nodes=config.nodes),
        sizes=sizes_of(config.model),
        length=length_of(config.length),
        mask=Mask(config.causal, config.window),
        batch=config.batch,
        dtype=config.dtype,
        layouts=layouts,
        checkpointing=config.checkpointing,
        keep_attention=config.keep_attention,
        zero=config.zero,
        sequence_parallel=config.sequence_parallel,
    )


def model_names() -> list[str]:
    """The shipped models whose sizes are stated, or found in a package."""
    return sorted(path.stem for path in _models().glob("*.yaml") if path.stem != "folder")


def sizes_of(model: str) -> Any:
    """The sizes of a shipped model, or of one that is found. ValueError where there is neither."""
    from ringattn.models.source import config_of
    from ringattn.planner.architecture import HYBRID_TYPE, Architecture, architecture_of
    from ringattn.settings.hybrid import HybridSettings, hybrid_of
    from ringattn.settings.typed import build, suggest

    if model in model_names():
        path, shipped = shipped_path(model), _shipped(model)
        if path is not None:
            return architecture_of(config_of(path))
        sizes = build(Architecture, shipped["architecture"], prefix="model.architecture.")
        if not shipped.get("hybrid"):
            return sizes
        return hybrid_of(sizes, build(HybridSettings, shipped["hybrid"], prefix="model.hybrid."))
    if "/" in model or Path(model).expanduser().exists():
        values = config_of(model)
        linear = list(values.get("layer_types") or ()).count("linear_attention")
        if linear and values.get("model_type") != HYBRID_TYPE:
            raise ValueError(
                f"a plan knows the linear attentions of ringattn's hybrids, and {linear} layers of {model} are of "
                f"another kind (model_type {values.get('model_type')}): plan for a LLaMA of its sizes, which is slower "
                "and larger"
            )
        return architecture_of(values)
    raise ValueError(
        f"there is no model {model!r}.{suggest(model, model_names())} Name one of {', '.join(model_names())}, or the "
        "folder of a Hugging Face checkpoint, a GGUF file or a name on the hub."
    )


def shipped_path(model: str) -> str | None:
    """Where the weights of a shipped model are; None where only its sizes are, or no model of that name."""
    path: str | None = _shipped(model)["path"] if model in model_names() else None
    return path


def _shipped(model: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((_models() / f"{model}.yaml").read_text(encoding="utf-8"))
    return found


def _models() -> Path:
    from ringattn.launch.compose import conf_folder

    return conf_folder() / "model"
