"""What one worker of `ringattn train` does, from the frozen configuration to the picture."""

from __future__ import annotations

import json
import logging
import os
import socket
import warnings
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from ringattn.launch.device import check_precision, choose_device, worker_threads
from ringattn.launch.dry_run import architecture
from ringattn.launch.memory_hint import out_of_memory
from ringattn.launch.run_folder import CONFIG_FILE
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

import ringattn
from ringattn.data.token_data import open_data
from ringattn.data.tokenizer import copy_tokenizer
from ringattn.evaluation.held_out import evaluate
from ringattn.models.adapter import adapt, is_adapted, merged_weights
from ringattn.models.export import export_model
from ringattn.models.hybrid import HybridForCausalLM
from ringattn.models.landmark import check_tokenizer, is_landmark, with_blocks
from ringattn.models.load import load_model, new_hybrid, new_llama
from ringattn.models.support import text_model
from ringattn.models.tiled_mlp import tile_mlp
from ringattn.planner.architecture import has_rope_scaling
from ringattn.planner.choose import cluster_for
from ringattn.planner.step import peak, sequence_flops
from ringattn.report.run_picture import draw_run
from ringattn.report.table import position_table, verdict
from ringattn.runtime.rows import Rows, make_rows
from ringattn.settings.parallel import mesh_shape
from ringattn.settings.run import RunConfig, load
from ringattn.training.build_locks import build_folder, check_build_locks
from ringattn.training.checkpoint import newest, save_checkpoint, verify
from ringattn.training.distillation import Guesses, Mixers, Teacher, train_mixers_alone
from ringattn.training.engine import Engine, TorchEngine
from ringattn.training.loop import Position, train
from ringattn.training.metrics import Recorder, configure_logging, read_metrics
from ringattn.training.reader import SequenceReader, head_softcap
from ringattn.training.state import Progress, State, check_same_run, collect, identity, read_progress, write_state
from ringattn.training.stop import StopRequest
from ringattn.training.watchdog import Watchdog

logger = logging.getLogger("ringattn")


def work(folder: Path, expected_digest: str, store: dist.Store | None = None) -> None:
    """Run this rank of the job in `folder`; the place in the world comes from the launcher's environment.

    Raises:
        ValueError: anything a user can put right, in one sentence; all ranks raise, or are stopped by the
        launcher.
    """
    stop = StopRequest()
    stop.listen()
    config, digest = load(folder / CONFIG_FILE)
    device = choose_device(config.launcher.device)
    slow = check_precision(config.trainer.precision, device)
    transformers_logging.disable_progress_bar()
    # DeepSpeed calls collectives by their old names, at every step.
    warnings.filterwarnings("ignore", message=r".*torch\.distributed\..* is deprecated", category=FutureWarning)
    configure_logging(enabled=int(os.environ["RANK"]) == 0)
    if slow:
        logger.warning(slow)
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
        with out_of_memory(config, device):
            run(config, folder, device, stop)
        dist.barrier()
    finally:
        dist.destroy_process_group()


def run(config: RunConfig, folder: Path, device: torch.device, stop: StopRequest) -> None:
    """Train, save, evaluate, draw. Asked to stop, it saves and leaves."""
    rows, sp = build_mesh(config)
    trainer, first = config.trainer, dist.get_rank() == 0
    data = open_data(folder / "data", seed=trainer.seed, length=trainer.sequence_length)
    same = identity(config, data.fingerprint(), rows=rows.number)
    checkpoints = folder / "checkpoints"
    found = newest(checkpoints)
    progress, state = open_checkpoint(found, same) if found else (Progress(step=0, updates=0, identity=same), None)
    model = build_model(config)
    if state is not None:
        state.fill(model)
    model.to(device)
    model = ringattn.parallelize(
        model,
        sp,
        gradient_checkpointing=trainer.gradient_checkpointing,
        keep_attention=trainer.keep_attention,
    )
    if trainer.mlp_chunk is not None:
        tile_mlp(model, trainer.mlp_chunk)
    engine = build_engine(config, model, sp, device, learn=build_learning(config, model, sp, device))
    if state is not None:
        state.restore(engine, progress)
        logger.info("going on from %s, after %d of %d steps", found, progress.step, trainer.steps)
    logger.info(describe(config, model, device, data.train_tokens))

    def save(position: Position) -> None:
        write_checkpoint(position, engine, config, folder, same)

    recorder = Recorder(
        folder,
        steps=trainer.steps,
        wandb=trainer.wandb,
        tensorboard=trainer.tensorboard,
        settings=asdict(config),
        enabled=first,
        done=progress.step,
        names=rank_names(),
        flops_of_peak=flops_of_peak(config, device),
    )
    with recorder, Watchdog(dist.get_rank(), sp.counter, seconds=trainer.hang_seconds) as watchdog:
        position = train(
            engine,
            data,
            trainer=trainer,
            rows=rows,
            recorder=recorder,
            save=save,
            save_every=config.checkpoint.every,
            position=Position(step=progress.step, updates=progress.updates),
            stop=stop,
            watchdog=watchdog,
        )
        watchdog.doing("saving")
        if position.step > progress.step:
            save(position)
        if position.step < trainer.steps:
            logger.info("asked to stop: saved after step %d of %d; resume=auto goes on", position.step, trainer.steps)
            return
        watchdog.doing("evaluating")
        report = evaluate(
            engine.reader,
            data,
            length=trainer.sequence_length,
            sequences=trainer.evaluate_sequences,
            vocabulary=text_model(model).config.vocab_size,
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


def open_checkpoint(checkpoint: Path, same: dict[str, Any]) -> tuple[Progress, State]:
    """What a run goes on from; raises ValueError on every rank where it is damaged, or another run's."""
    verify(checkpoint)
    progress = read_progress(checkpoint)
    check_same_run(progress.identity, same)
    return progress, State(checkpoint)


def write_checkpoint(position: Position, engine: Engine, config: RunConfig, folder: Path, same: dict[str, Any]) -> None:
    """Save on all ranks together. A disk that is full in the middle of a run may have room at the next checkpoint: only
    a failure of the last one is the run's."""
    first, model = dist.get_rank() == 0, engine.reader.model
    # What takes all ranks comes first; then each writes by itself.
    state = collect(engine) if config.checkpoint.state else None
    tensors = {name: tensor for name, tensor in engine.weights() if first}
    progress = Progress(step=position.step, updates=position.updates, identity=same)

    def write(path: Path) -> None:
        if state is not None:
            write_state(path, state, progress)
        if not first:
            return
        plain = merged_weights(model, tensors) if is_adapted(model) else tensors
        export_model(text_model(model), plain, path, dtype=getattr(torch, config.checkpoint.dtype))
        if is_adapted(model):
            model.save_pretrained(path / "adapter", state_dict=tensors)
        source = folder / "data" / "tokenizer" if config.model.path is None else Path(config.model.path)
        copy_tokenizer(source, path)

    try:
        place = save_checkpoint(write, folder / "checkpoints", step=position.step, keep=config.checkpoint.keep)
        logger.info("checkpoint %s", place)
    except ValueError as error:
        if position.step == config.trainer.steps:
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


def rank_names() -> list[str]:
    """The host of each rank."""
    names: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(names, socket.gethostname())
    return names


def flops_of_peak(config: RunConfig, device: torch.device) -> float | None:
    """The model's FLOP of one token over the FLOP/s that the data sheet states for all devices; times tokens a second
    it is the MFU. None where no data sheet is known: a CPU, a GPU of no shipped cluster."""
    if device.type != "cuda":
        return None
    try:
        accelerator = cluster_for(None, torch.cuda.get_device_name(device), dist.get_world_size()).accelerator
        reach = peak(accelerator, config.trainer.precision)
    except ValueError:
        return None
    length = config.trainer.sequence_length
    pairs = length * (length + 1) / 2
    flops = sequence_flops(architecture(config), length, pairs)
    return flops / length / (reach * dist.get_world_size())


def build_mesh(config: RunConfig) -> tuple[Rows, ringattn.SequenceParallel]:
    """The two axes: rows of ranks that read different sequences, and the ranks of a row, which share one."""
    number, _ = mesh_shape(dist.get_world_size(), config.mesh.sequence_parallel)
    rows, group = make_rows(number)
    sp = ringattn.SequenceParallel(
        group=group,
        schedule=config.schedule.name,
        layout=config.schedule.layout,
        backward=config.schedule.backward,
        timeout=config.schedule.timeout,
        kernel=config.schedule.kernel,
        cluster=config.schedule.cluster,
    )
    return rows, sp


def build_learning(
    config: RunConfig, model: Any, sp: ringattn.SequenceParallel, device: torch.device
) -> Guesses | Mixers | None:
    """What the run learns from a teacher, where it has one; the same on every rank."""
    distill = config.distill
    if distill.teacher is None:
        return None
    taught: Any = load_model(Path(distill.teacher))
    taught.to(device)
    teacher = Teacher(taught, sp, softcap=head_softcap(taught))
    if distill.match == "mixers":
        return Mixers(
            cast(HybridForCausalLM, text_model(model)), teacher, recompute=config.trainer.gradient_checkpointing
        )
    return Guesses(teacher, distill.weight, distill.temperature)


def build_engine(
    config: RunConfig,
    model: Any,
    sp: ringattn.SequenceParallel,
    device: torch.device,
    *,
    learn: Guesses | Mixers | None = None,
) -> Engine:
    """Plain torch, or DeepSpeed at a ZeRO stage."""
    trainer, stage = config.trainer, config.deepspeed.stage
    bfloat16 = trainer.precision == "bfloat16"
    # ZeRO from stage 1 on keeps fp32 weights in its partitions, and bf16 ones in the model: nothing is cast on the way.
    in_engine = bfloat16 and stage is not None and stage > 0
    reader = SequenceReader(
        model,
        sp,
        device=device,
        chunk=trainer.loss_chunk,
        precision="float32" if in_engine else trainer.precision,
        offload=trainer.offload_activations,
        learn=learn,
    )
    if stage is None:
        return TorchEngine(reader, config.optimizer, steps=trainer.steps, accumulation=trainer.accumulation)
    from ringattn.training.zero import ZeroEngine, zero_settings

    if config.deepspeed.offload_optimizer:
        # Its optimizer is compiled, in a folder of our own: a lock that another program left in the shared one would
        # be waited for.
        os.environ["TORCH_EXTENSIONS_DIR"] = str(build_folder())
        check_build_locks(build_folder())
    settings = zero_settings(
        config.deepspeed, accumulation=trainer.accumulation, clip=config.optimizer.clip, bfloat16=in_engine
    )
    return ZeroEngine(reader, config.optimizer, settings, steps=trainer.steps)


def build_model(config: RunConfig) -> Any:
    """A new model or a loaded one, with adapters where asked for, the same on every rank; warns where its positions do
    not reach."""
    chosen, length = config.model, config.trainer.sequence_length
    if chosen.architecture is not None:
        if chosen.hybrid is None:
            model = new_llama(chosen.architecture, seed=config.trainer.seed)
        else:
            model = new_hybrid(chosen.architecture, chosen.hybrid, seed=config.trainer.seed)
        setting = f"model.architecture.max_positions={length}"
    else:
        model = load_model(Path(str(chosen.path)), rope_scaling=chosen.rope_scaling, length=length)
        setting = f"model.rope_scaling=yarn:{length}"
    if chosen.landmark_block is not None and chosen.path is not None:
        check_tokenizer(Path(chosen.path), model.config.vocab_size)
    model = with_blocks(model, chosen.landmark_block)
    reach = model.config.max_position_embeddings
    if is_landmark(model.config):
        length += length // model.config.landmark_block
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
    if config.distill.match == "mixers":
        train_mixers_alone(model)
    if config.adapter.kind == "none":
        return model
    torch.manual_seed(config.trainer.seed)
    return adapt(model, config.adapter)


def describe(config: RunConfig, model: PreTrainedModel, device: torch.device, tokens: int) -> str:
    """The first line of a run."""
    # At ZeRO stage 3 a weight itself is empty, and knows how large it is.
    sizes = [(getattr(p, "ds_numel", p.numel()) / 1e6, p.requires_grad) for p in model.parameters()]
    weights, trained = sum(size for size, _ in sizes), sum(size for size, moves in sizes if moves)
    share = "" if trained == weights else f" ({trained:.2f} M trained)"
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    return (
        f"{weights:.2f} M weights{share} on {dist.get_world_size()} ranks ({where} each): {config.schedule.name}, "
        f"{config.schedule.layout}, {config.trainer.sequence_length:,} tokens a sequence, {tokens:,} tokens "
        f"of text{_mixing(config, text_model(model), device)}"
    )


def _mixing(config: RunConfig, model: Any, device: torch.device) -> str:
    """What computes a hybrid's linear layers; on a GPU also why what would be faster does not."""
    if not isinstance(model, HybridForCausalLM):
        return ""
    kernels = dict(model.linear_kernels(getattr(torch, config.trainer.precision), device=device.type))
    chosen = [name for name, what in kernels.items() if what == "chosen"]
    if not chosen:
        return ""
    missed = f" (fla {kernels['fla']})" if device.type == "cuda" and chosen != ["fla"] else ""
    return f"; {model.config.mixer} by {chosen[0]}{missed}"
