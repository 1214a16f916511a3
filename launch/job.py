"""What one worker of `ringattn train` does, from the frozen configuration to the picture."""

from __future__ import annotations

import json
import logging
import os
import warnings
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from ringattn.launch.device import choose_device, worker_threads
from ringattn.launch.run_folder import CONFIG_FILE
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

import ringattn
from ringattn.evaluation.held_out import evaluate
from ringattn.models.load import load_model, new_llama
from ringattn.models.tokenizer_files import copy_tokenizer
from ringattn.planner.architecture import has_rope_scaling
from ringattn.report.picture import draw_run
from ringattn.report.table import position_table, verdict
from ringattn.settings.parallel import mesh_shape
from ringattn.settings.run import RunConfig, load
from ringattn.training.checkpoint import save_checkpoint
from ringattn.training.data import load_tokens
from ringattn.training.loop import Rows, train
from ringattn.training.metrics import Recorder, configure_logging, read_metrics
from ringattn.training.optimizer import Optimizer
from ringattn.training.reader import SequenceReader

logger = logging.getLogger("ringattn")


def work(folder: Path, expected_digest: str, store: dist.Store | None = None) -> None:
    """Run this rank of the job in `folder`; the place in the world comes from the launcher's environment.

    Raises:
        ValueError: anything a user can put right, in one sentence; all ranks raise, or are stopped by the
        launcher.
    """
    config, digest = load(folder / CONFIG_FILE)
    device = choose_device(config.launcher.device)
    transformers_logging.disable_progress_bar()
    configure_logging(enabled=int(os.environ["RANK"]) == 0)
    if device.type == "cpu":
        torch.set_num_threads(worker_threads(config.launcher.threads))
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=int(os.environ["RANK"]) if store is not None else -1,
        world_size=int(os.environ["WORLD_SIZE"]) if store is not None else -1,
        timeout=timedelta(seconds=config.schedule.timeout),
    )
    try:
        check_same_configuration(digest, expected_digest)
        run(config, folder, device)
        dist.barrier()
    finally:
        dist.destroy_process_group()


def run(config: RunConfig, folder: Path, device: torch.device) -> None:
    """Train, save, evaluate, draw."""
    rows, sp = build_mesh(config)
    text = load_tokens(folder / "data")
    model = build_model(config)
    model.to(device)  # type: ignore[arg-type]
    model = ringattn.parallelize(
        model,
        sp,
        gradient_checkpointing=config.trainer.gradient_checkpointing,
        keep_attention=config.trainer.keep_attention,
    )
    reader = SequenceReader(
        model, sp, device=device, chunk=config.trainer.loss_chunk, precision=config.trainer.precision
    )
    optimizer = Optimizer(model, config.optimizer, steps=config.trainer.steps)
    first = dist.get_rank() == 0
    logger.info(describe(config, model, device, len(text.train)))

    def save(step: int) -> None:
        if first:
            write_checkpoint(step, model, config, folder)
        dist.barrier()

    with Recorder(
        folder,
        steps=config.trainer.steps,
        wandb=config.trainer.wandb,
        settings=asdict(config),
        enabled=first,
    ) as recorder:
        train(
            reader,
            optimizer,
            text.train,
            trainer=config.trainer,
            clip=config.optimizer.clip,
            rows=rows,
            recorder=recorder,
            save=save,
        )
        save(config.trainer.steps)
        report = evaluate(
            reader,
            text,
            length=config.trainer.sequence_length,
            sequences=config.trainer.evaluate_sequences,
            vocabulary=model.config.vocab_size,
            rows=rows,
        )
        recorder.summary({"held_out_loss": report.loss, "bigram_loss": report.bigram_loss})
    if first:
        (folder / "perplexity.json").write_text(json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8")
        draw_run(
            folder / "run.png",
            read_metrics(folder),
            report,
            title=f"{config.run.name}: {report.length:,} tokens a sequence",
            subtitle=(
                f"{config.schedule.name} on {sp.world} ranks, {config.schedule.layout} layout; "
                f"{report.sequences} held-out sequences"
            ),
        )
        logger.info("\n%s\n\n%s\n\n%s", position_table(report), verdict(report), f"picture {folder / 'run.png'}")


def write_checkpoint(step: int, model: PreTrainedModel, config: RunConfig, folder: Path) -> None:
    """Save on rank 0. A disk that is full in the middle of a run may have room at the next checkpoint: only a
    failure of the last one is the run's."""

    def write(path: Path) -> None:
        model.save_pretrained(path)
        source = folder / "data" / "tokenizer" if config.model.path is None else Path(config.model.path)
        copy_tokenizer(source, path)

    try:
        logger.info("checkpoint %s", save_checkpoint(write, folder / "checkpoints", step=step))
    except ValueError as error:
        if step == config.trainer.steps:
            raise
        logger.error("%s Training goes on.", error)


def check_same_configuration(digest: str, expected: str) -> None:
    """All ranks must have read the configuration that was frozen; raises on every rank."""
    digests: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(digests, digest)
    other = [rank for rank, found in enumerate(digests) if found != expected]
    if other:
        raise ValueError(
            f"all ranks must read the same {CONFIG_FILE}, but ranks {other} read another one than was "
            f"frozen (digest {expected[:12]}, found {digests[other[0]][:12]}): do not edit it while a run "
            "starts, and put run.folder on a file system that every host sees."
        )


def build_mesh(config: RunConfig) -> tuple[Rows, ringattn.SequenceParallel]:
    """The two axes: rows of ranks that read different sequences, and the ranks of a row, which share one."""
    world, rank = dist.get_world_size(), dist.get_rank()
    number, degree = mesh_shape(world, config.mesh.sequence_parallel)
    group = None
    for row in range(number) if number > 1 else ():
        # Every rank takes part in making every group, and keeps its own.
        made = dist.new_group(range(row * degree, (row + 1) * degree))
        group = made if rank // degree == row else group
    sp = ringattn.SequenceParallel(
        group=group,
        schedule=config.schedule.name,
        layout=config.schedule.layout,
        backward=config.schedule.backward,
        timeout=config.schedule.timeout,
        kernel=config.schedule.kernel,
        cluster=config.schedule.cluster,
    )
    return Rows(number=number, index=rank // degree), sp


def build_model(config: RunConfig) -> PreTrainedModel:
    """A new model or a loaded one, the same on every rank; warns where its positions do not reach."""
    chosen, length = config.model, config.trainer.sequence_length
    if chosen.architecture is not None:
        model = new_llama(chosen.architecture, seed=config.trainer.seed)
        setting = f"model.architecture.max_positions={length}"
    else:
        model = load_model(Path(str(chosen.path)), rope_scaling=chosen.rope_scaling, length=length)
        setting = f"model.rope_scaling=yarn:{length}"
    reach = model.config.max_position_embeddings
    if length > reach and not has_rope_scaling(model.config.to_dict()):
        # The library's own warning speaks of config attributes; a person at the command line has settings.
        warnings.filterwarnings("ignore", message="a sequence of .* positions is longer than the model's")
        logger.warning(
            "warning: sequences of %d tokens are longer than the model's %d positions, and its RoPE is not "
            "scaled: set %s",
            length,
            reach,
            setting,
        )
    return model


def describe(config: RunConfig, model: PreTrainedModel, device: torch.device, tokens: int) -> str:
    """The first line of a run."""
    weights = sum(p.numel() for p in model.parameters()) / 1e6
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    return (
        f"{weights:.2f} M weights on {dist.get_world_size()} ranks ({where} each): {config.schedule.name}, "
        f"{config.schedule.layout}, {config.trainer.sequence_length:,} tokens a sequence, {tokens:,} tokens "
        "of text"
    )
