"""The memory estimate of a training step against what torch's allocator counts, case by case.

    python scripts/measure_memory.py             # every case, over gloo ranks of one thread each
    python scripts/measure_memory.py --only 2    # the third one

Each case runs two steps of the trainer's own loop. The profiler has every allocation and every release of CPU memory
that torch makes, inside operators too; their running sum from before the model is there, at its highest in the second
step, is the peak. It is not the resident memory of the process, which also holds the program and what the allocator
keeps.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch.profiler import ProfilerActivity, profile, record_function

import ringattn
from ringattn.data.token_data import TokenData
from ringattn.models.load import new_hybrid, new_llama
from ringattn.models.tiled_mlp import tile_mlp
from ringattn.planner.architecture import Architecture, HybridArchitecture
from ringattn.planner.memory import estimate
from ringattn.planner.mixers import MIXER_NAMES
from ringattn.planner.training_step import TrainingStep
from ringattn.report.table import table
from ringattn.runtime.rows import Rows
from ringattn.settings.hybrid import HybridSettings, hybrid_of
from ringattn.settings.optimizer import OptimizerConfig
from ringattn.settings.trainer import TrainerConfig
from ringattn.training.engine import TorchEngine
from ringattn.training.loop import Position, train
from ringattn.training.metrics import StepMetrics
from ringattn.training.reader import SequenceReader
from ringattn.training.watchdog import Watchdog

_MARK = "end of step"


@dataclass(frozen=True)
class Case:
    """A model and how it is trained."""

    sizes: Architecture
    step: TrainingStep

    def describe(self) -> str:
        sizes, step = self.sizes, self.step
        words = [
            *([sizes.describe()] if isinstance(sizes, HybridArchitecture) else []),
            f"{sizes.hidden_size} x {sizes.layers}, {sizes.heads}/{sizes.key_value_heads} heads",
            f"{sizes.vocabulary} words",
            f"{step.length // step.ranks} x {step.ranks} tokens",
            step.schedule if step.ranks > 1 else "one rank",
            "bf16" if step.item_bytes == 2 else "fp32",
            "Muon" if step.moments[0] == 1 else "AdamW",
        ]
        if step.gradient_checkpointing:
            words.append("checkpointed" if step.keep_attention else "checkpointed whole")
        if sizes.tie_embeddings:
            words.append("tied")
        if step.mlp_chunk is not None:
            words.append(f"feed-forward by {step.mlp_chunk}")
        if step.accumulation > 1:
            words.append(f"{step.accumulation} parts")
        return ", ".join(words)


def architecture(hidden: int, layers: int, vocabulary: int, heads: int, key_heads: int, inner: int) -> Architecture:
    return Architecture(
        vocabulary=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        layers=layers,
        heads=heads,
        key_value_heads=key_heads,
        head_dim=hidden // heads,
        max_positions=8192,
    )


SMALL = architecture(128, 2, 1000, 4, 2, 352)


def hybrid(sizes: Architecture, mixer: str, pattern: str, *heads: int, window: int | None = None) -> Architecture:
    """heads: their number, and channels of keys and of values."""
    number, keys, values = heads
    return hybrid_of(
        sizes,
        HybridSettings(
            mixer=mixer,
            pattern=pattern,
            linear_heads=number,
            linear_key_dim=keys,
            linear_value_dim=values,
            sliding_window=window,
        ),
    )


def two_layers(mixer: str) -> Architecture:
    """A linear layer below a full one."""
    heads = (1, 1, 128) if mixer == "hgrn" else (2, 32, 64)
    return hybrid(SMALL, mixer, "linear,full", *heads)


PLAIN = TrainingStep(
    length=2048,
    ranks=2,
    schedule="tokenring",
    layout="zigzag",
    item_bytes=4,
    loss_chunk=256,
    gradient_checkpointing=False,
    keep_attention=True,
)
AGAIN = replace(PLAIN, gradient_checkpointing=True)
NARROW = replace(PLAIN, item_bytes=2)
CASES = (
    Case(SMALL, PLAIN),
    Case(SMALL, replace(NARROW, schedule="ring")),
    Case(SMALL, replace(AGAIN, schedule="ulysses", keep_attention=False, item_bytes=2, loss_chunk=64)),
    Case(architecture(128, 3, 8000, 4, 1, 352), replace(PLAIN, length=1024, moments=(1, 2), loss_chunk=1024)),
    Case(architecture(128, 2, 1000, 4, 4, 256), replace(AGAIN, length=8192, loss_chunk=1024)),
    Case(architecture(256, 2, 4000, 4, 4, 512), replace(PLAIN, length=1024, schedule="ring")),
    Case(architecture(256, 6, 2000, 8, 2, 704), replace(AGAIN, schedule="ring", item_bytes=2)),
    Case(architecture(256, 4, 2000, 8, 4, 704), replace(NARROW, schedule="ulysses", moments=(1, 2))),
    Case(architecture(256, 4, 2000, 8, 4, 704), replace(AGAIN, accumulation=2, length=1024)),
    Case(architecture(384, 2, 2000, 6, 2, 1024), replace(AGAIN, length=1024, schedule="ring", moments=(1, 2))),
    Case(architecture(384, 3, 1000, 6, 6, 1024), replace(PLAIN, layout="striped", schedule="ring")),
    Case(architecture(512, 2, 8000, 8, 2, 1408), replace(PLAIN, length=2048, loss_chunk=1024)),
    Case(architecture(512, 4, 1000, 8, 2, 1408), replace(AGAIN, length=1024, item_bytes=2, keep_attention=False)),
    Case(architecture(512, 6, 8000, 8, 2, 1408), replace(AGAIN, length=512, schedule="ring")),
    Case(replace(SMALL, vocabulary=8000, tie_embeddings=True, attention_bias=True), replace(NARROW, loss_chunk=64)),
    Case(SMALL, replace(PLAIN, length=4096, ranks=1)),
    Case(architecture(256, 4, 2000, 8, 4, 704), replace(AGAIN, length=512, ranks=1, item_bytes=2, moments=(1, 2))),
    Case(architecture(384, 3, 8000, 6, 2, 1024), replace(AGAIN, length=512, ranks=1, moments=(1, 2), loss_chunk=64)),
    Case(architecture(256, 4, 2000, 8, 4, 1024), replace(AGAIN, mlp_chunk=128)),
    Case(architecture(256, 4, 2000, 8, 4, 1024), replace(PLAIN, mlp_chunk=128)),
    *(Case(two_layers(mixer), PLAIN) for mixer in MIXER_NAMES),
    *(Case(two_layers(mixer), replace(AGAIN, item_bytes=2, length=4096)) for mixer in MIXER_NAMES),
    *(Case(two_layers(mixer), replace(PLAIN, length=2048, ranks=1)) for mixer in ("gated_deltanet", "hgrn2", "kda")),
    Case(
        hybrid(architecture(256, 4, 2000, 4, 2, 704), "gated_deltanet", "3:1", 3, 64, 128),
        replace(AGAIN, item_bytes=2, moments=(1, 2), state_route="scan"),
    ),
    Case(
        hybrid(architecture(256, 4, 2000, 4, 2, 704), "gla", "linear,sliding,linear,full", 4, 32, 64, window=256),
        replace(NARROW, schedule="ring", layout="contiguous", state_route="pipeline"),
    ),
    Case(hybrid(architecture(192, 3, 1000, 4, 4, 512), "hgrn2", "pure", 2, 96, 96), replace(PLAIN, state_route="ring")),
)


def main() -> None:
    options = _options()
    cases = CASES if options.only is None else (CASES[options.only],)
    peaks: dict[Case, int] = {}
    for ranks in sorted({case.step.ranks for case in cases}):
        alike = tuple(case for case in cases if case.step.ranks == ranks)
        with tempfile.TemporaryDirectory() as folder:
            torch.multiprocessing.spawn(_work, (alike, folder), nprocs=ranks)
            for number, case in enumerate(alike):
                peaks[case] = max(int(path.read_text()) for path in Path(folder).glob(f"peak_{number}_*"))
    rows = []
    for case, measured in peaks.items():
        made = estimate(case.sizes, case.step)
        sizes = [f"{size / 2**20:.1f}" for _, size in made.parts()]
        error = f"{100 * (made.total / measured - 1):+.1f} %"
        rows.append([case.describe(), made.moment, *sizes, f"{measured / 2**20:.1f}", error])
    parts = [name for name, _ in made.parts()]
    print(f"MiB of the fullest rank at the fullest moment, torch {torch.__version__}\n")
    print(table(["case", "moment", *parts, "measured", "error"], rows))


def peak_of_step(case: Case) -> int:
    """The most bytes of tensors on this rank in the second of two training steps; the default process group is that of
    the case's ranks."""
    gc.collect()
    torch.set_num_threads(case.step.threads)
    step = case.step
    trainer = TrainerConfig(
        steps=2,
        sequence_length=step.length,
        accumulation=step.accumulation,
        precision="bfloat16" if step.item_bytes == 2 else "float32",
        loss_chunk=step.loss_chunk,
    )

    def run() -> None:
        sp = ringattn.SequenceParallel(schedule=step.schedule, layout=step.layout, backward=step.backward, timeout=60)
        model = ringattn.parallelize(
            new_model(case),
            sp,
            gradient_checkpointing=step.gradient_checkpointing,
            keep_attention=step.keep_attention,
        )
        if step.mlp_chunk is not None:
            tile_mlp(model, step.mlp_chunk)
        reader = SequenceReader(
            model, sp, device=torch.device("cpu"), chunk=step.loss_chunk, precision=trainer.precision
        )
        optimizer = OptimizerConfig(name="muon" if step.moments[0] == 1 else "adamw")
        engine = TorchEngine(reader, optimizer, steps=2, accumulation=step.accumulation)
        tokens = np.random.default_rng(0).integers(0, case.sizes.vocabulary, 4 * step.length)
        data = TokenData.of_tokens(tokens, seed=0, length=step.length)
        with Watchdog(0, sp.counter, seconds=0) as watchdog:
            train(
                engine,
                data,
                trainer=trainer,
                rows=Rows(number=1, index=0),
                recorder=_Marks(),  # type: ignore[arg-type]
                save=_nowhere,
                watchdog=watchdog,
            )

    _, second = peaks_between_marks(run)
    if abs(second.start - second.end) > 0.01 * second.peak:
        raise RuntimeError(f"the second step began with {second.start} bytes and ended with {second.end}: not steady")
    return second.peak


def new_model(case: Case) -> Any:
    """A LLaMA of the case's sizes, or a hybrid."""
    sizes = case.sizes
    if not isinstance(sizes, HybridArchitecture):
        return new_llama(sizes, seed=0)
    linear = sizes.linear
    hybrid = HybridSettings(
        mixer=linear.mixer,
        pattern=",".join(sizes.pattern),
        linear_heads=linear.heads,
        linear_key_dim=linear.key_dim,
        linear_value_dim=linear.value_dim,
        conv_width=linear.conv_width,
        sliding_window=sizes.sliding_window,
        state_route=case.step.state_route,
    )
    return new_hybrid(sizes, hybrid, seed=0)


@dataclass(frozen=True)
class Span:
    """Bytes held at the start and the end of a stretch of time, and at most in it."""

    start: int
    peak: int
    end: int


def peaks_between_marks(work: Callable[[], Any]) -> list[Span]:
    """Run `work` and follow the bytes that torch's CPU allocator has given out, from 0 at its start; a span ends where
    it calls `mark`. Memory that another thread frees is not seen to be freed: see `_released_here`."""
    with _released_here(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())  # type: ignore[union-attr]
    spans: list[Span] = []
    held = start = peak = 0
    for event in events:
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
        elif event.name() == _MARK:
            spans.append(Span(start, peak, held))
            start = peak = held
    return spans


def mark() -> None:
    with record_function(_MARK):
        pass


class _Marks:
    """Stands where the loop has its recorder, and ends a span with each step."""

    def step(self, metrics: StepMetrics) -> None:
        mark()


def _nowhere(position: Position) -> None:
    return


@contextmanager
def _released_here() -> Iterator[None]:
    """gloo's thread may hold a reduced tensor a moment longer than the caller, and would then free it where the
    profiler does not look: wait until it has let go, of the tensor and then of its Python object, which torch holds
    while more than one has the tensor."""
    reduce = dist.all_reduce

    def holders(tensor: torch.Tensor) -> tuple[int, int]:
        return tensor._use_count(), sys.getrefcount(tensor)  # type: ignore[attr-defined]

    def reduce_and_wait(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        before = holders(tensor)
        work = reduce(tensor, *args, **kwargs)
        while holders(tensor) != before:
            time.sleep(0)
        return work

    dist.all_reduce = reduce_and_wait
    try:
        yield
    finally:
        dist.all_reduce = reduce


def _work(rank: int, cases: tuple[Case, ...], folder: str) -> None:
    world = cases[0].step.ranks
    store = dist.FileStore(f"{folder}/store", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    for number, case in enumerate(cases):
        (Path(folder) / f"peak_{number}_{rank}").write_text(str(peak_of_step(case)))
        if rank == 0:
            print(f"measured {case.describe()}", flush=True)
    dist.barrier()
    dist.destroy_process_group()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, help="the number of one case, from 0")
    return parser.parse_args()


if __name__ == "__main__":
    main()
