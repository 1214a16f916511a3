"""An evaluation on the ranks that there are: ask, put together, report."""

from __future__ import annotations

import datetime
import os
import sys
import time
import warnings
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers
from ringattn.launch.about import commit, hardware, host_names, place, versions
from ringattn.launch.device import choose_device, shared_threads
from ringattn.launch.evaluate.inputs import Inputs, make_inputs
from ringattn.launch.evaluate.settings import read_other
from ringattn.launch.rank import together
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from ringattn.attention import SequenceParallel
from ringattn.evaluation.parts import PartsReader, Reader
from ringattn.evaluation.random_access import RandomAccessReader
from ringattn.evaluation.result import Evaluation, Setup
from ringattn.evaluation.scoring import score_cases
from ringattn.evaluation.windows import text_perplexity
from ringattn.models.landmark import with_blocks
from ringattn.models.load import load_model
from ringattn.models.parallelize import parallelize
from ringattn.planner.architecture import has_rope_scaling
from ringattn.report.evaluation_report import write_evaluation
from ringattn.report.evaluation_table import evaluation_text
from ringattn.runtime.rows import Rows, make_rows
from ringattn.settings.evaluation import EvaluationConfig, out_folder
from ringattn.settings.parallel import mesh_shape
from ringattn.settings.retrieval import positions_reached
from ringattn.training.reader import SequenceReader


def evaluate(config: EvaluationConfig, *, command: str) -> Evaluation | None:
    """Run, report and print; the evaluation on rank 0, None elsewhere. Collective over torch's default group, a gloo
    one with `config.launcher.processes` ranks.

    Raises:
        Refused: on every rank, where the settings, the text, the model or a device do not serve on one.
    """
    began, load = time.perf_counter(), os.getloadavg()[0]
    now = datetime.datetime.now(datetime.timezone.utc)
    rank = dist.get_rank()
    # Files are rank 0's to write, and to compare with.
    folder, other = together(
        lambda: (out_folder(config, stamp=f"{now:%Y%m%d-%H%M%S}"), read_other(config)) if rank == 0 else (None, None)
    )
    device = together(lambda: choose_device(config.launcher.device))
    if device.type == "cpu":
        torch.set_num_threads(config.launcher.threads or shared_threads())
    inputs = together(lambda: make_inputs(config))
    rows, sp = _make_ranks(config, device)
    together(lambda: _check_same(sp, config, inputs))
    reader, notes = together(lambda: _make_reader(config, sp, device))
    parts = _make_parts(config, reader, sp, folder)
    perplexity, scores = _ask(config, parts, rows, inputs)
    number, seconds = parts.before()
    if number:
        notes.append(f"{number} of the batches had been read before this evaluation was stopped, in {seconds:,.0f} s")
    harness = _run_harness(config, reader) if "harness" in config.task_names else None
    hosts: list[Any] | None = [None] * dist.get_world_size() if rank == 0 else None
    dist.gather_object(place(), hosts)
    if hosts is None:
        return None
    assert folder is not None
    setup = Setup(
        name=config.label,
        command=command,
        started=now.isoformat(timespec="seconds"),
        seconds=time.perf_counter() - began,
        ranks=dist.get_world_size(),
        hosts=host_names(hosts),
        text=inputs.name,
        settings=asdict(config),
        hardware=hardware(device, load=load),
        versions=versions() | {"transformers": transformers.__version__},
        commit=commit(),
        notes=tuple(notes),
    )
    evaluation = Evaluation(setup=setup, perplexity=perplexity, scores=scores, harness=harness)
    _report(evaluation, folder, other)
    parts.clear()
    return evaluation


def _make_parts(
    config: EvaluationConfig, reader: SequenceReader, sp: SequenceParallel, folder: Path | None
) -> PartsReader:
    """The reader, with what an evaluation into rank 0's `folder` has read before."""
    settings = asdict(config)
    figures = {name: settings[name] for name in ("model", "schedule", "retrieval", "precision")}
    stretched = max(config.token_lengths) if config.model.rope_scaling else None
    files = sorted(config.folder.glob("*.safetensors")) if config.folder.is_dir() else [config.folder]
    weights = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    model = f"{figures} {stretched} {weights} {sp.world} {reader.device.type} {versions()} {commit()}"
    return PartsReader(reader, folder, model=model, writes=sp.rank == 0)


def _make_ranks(config: EvaluationConfig, device: torch.device) -> tuple[Rows, SequenceParallel]:
    """The two axes: rows of ranks that read different sequences, and the ranks of a row, which share one."""
    number, _ = mesh_shape(dist.get_world_size(), config.mesh.sequence_parallel)
    backend = "nccl" if device.type == "cuda" else None
    rows, group = make_rows(number, backend=backend, timeout=timedelta(seconds=config.schedule.timeout))
    return rows, together(
        lambda: SequenceParallel(
            group,
            config.schedule.name,
            config.schedule.layout,
            kernel=config.schedule.kernel,
            timeout=config.schedule.timeout,
            agreement="first",
            cluster=config.schedule.cluster,
        )
    )


def _check_same(sp: SequenceParallel, config: EvaluationConfig, inputs: Inputs) -> None:
    """All ranks ask the same, and each has a token of every sequence."""
    for length in config.token_lengths:
        layout = sp.layout(length)
        if min(layout.local_length(rank) for rank in range(sp.world)) < 1:
            raise ValueError(
                f"every rank needs a token, but layout {layout.name!r} leaves a rank without any of {length} tokens "
                f"over {sp.world} ranks: raise lengths."
            )
    digests: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(digests, inputs.digest())
    other = [rank for rank, found in enumerate(digests) if found != digests[0]]
    if other:
        raise ValueError(
            f"all ranks must read the same text with the same tokenizer, but ranks {other} made other tokens than rank "
            "0: put the model and the text on a file system that every host sees."
        )


def _make_reader(
    config: EvaluationConfig, sp: SequenceParallel, device: torch.device
) -> tuple[SequenceReader, list[str]]:
    """The model on this rank, and what is to be said of it."""
    transformers_logging.disable_progress_bar()
    chosen = config.model
    model = load_model(config.folder, rope_scaling=chosen.rope_scaling, length=max(config.token_lengths))
    model = with_blocks(model, chosen.landmark_block)
    notes = _notes(config, model)
    if dist.get_rank() == 0:
        for note in notes:
            print(note, file=sys.stderr, flush=True)
    model.to(device)
    model = parallelize(model, sp).eval()
    if config.retrieval is not None:
        return RandomAccessReader(
            model, config.retrieval, sp, device=device, chunk=config.chunk, precision=config.precision
        ), notes
    return SequenceReader(model, sp, device=device, chunk=config.chunk, precision=config.precision), notes


def _notes(config: EvaluationConfig, model: PreTrainedModel) -> list[str]:
    """A warning where positions do not reach."""
    sizes = model.config.get_text_config()
    longest, reach = max(config.token_lengths), getattr(sizes, "max_position_embeddings", None)
    if config.retrieval is not None:
        longest = positions_reached(config.retrieval, sizes.landmark_block, longest)
    if reach is None or longest <= reach or has_rope_scaling(sizes.to_dict()):
        return []
    # The library's own warning speaks of config attributes; a person at the command line has settings.
    warnings.filterwarnings("ignore", message="a sequence of .* positions is longer than the model's")
    return [
        f"warning: sequences of {longest:,} tokens are longer than the model's {reach:,} positions, and its RoPE is "
        f"not scaled: set model.rope_scaling=yarn:{longest}"
    ]


def _ask(
    config: EvaluationConfig, reader: Reader, rows: Rows, inputs: Inputs
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """(length reports, scores)."""
    began = time.perf_counter()

    def say(line: str) -> None:
        if dist.get_rank() == 0:
            print(f"{line}  ({time.perf_counter() - began:.0f} s)", file=sys.stderr, flush=True)

    perplexity: list[Any] = []
    if inputs.tokens is not None:
        perplexity = text_perplexity(
            reader,
            inputs.tokens,
            config.token_lengths,
            windows=config.windows,
            begin=inputs.begin,
            batch_tokens=config.batch_tokens,
            rows=rows,
            say=say,
        )
    scores = score_cases(
        reader,
        inputs.cases,
        samples=config.samples,
        batch_tokens=config.batch_tokens,
        greedy=config.scoring == "greedy",
        text=inputs.text,
        rows=rows,
        say=say,
    )
    return tuple(perplexity), tuple(scores)


def _run_harness(config: EvaluationConfig, reader: SequenceReader) -> dict[str, dict[str, float]]:
    from ringattn.launch.evaluate.harness import run

    return together(lambda: run(config, reader))


def _report(evaluation: Evaluation, folder: Path, other: Evaluation | None) -> None:
    files = write_evaluation(evaluation, folder, other)
    print(evaluation_text(evaluation, other))
    print("\n".join(["", *(f"wrote {path}" for path in files)]), flush=True)
