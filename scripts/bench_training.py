"""A training step against plain transformers with gradient checkpointing: tokens/s and resident memory, side by side.

    python scripts/bench_training.py --tokens 4096               # speed, and memory at that length
    python scripts/bench_training.py --tokens 16384 --only ours  # does it fit?
    python scripts/bench_training.py --tokens 8192 --only ours --ranks 1,2,4 --rounds 1

Both train a LLaMA of SmolLM2-135M's sizes (9 query heads over 3: Ulysses serves neither 2 nor 4 ranks) from the same
random weights, fully, in fp32, with AdamW and gradient checkpointing. The peer is one process that uses every core,
with torch's scaled dot product attention, its loss from `labels=`; ours is one process a rank, whose threads share the
cores evenly. Contenders take turns, and a step's time is that of its slowest rank.

Memory is the process's highest resident size over its steps (VmHWM of Linux): the program, what the allocator keeps,
and everything else. `beyond weights` leaves out what does not depend on the length: what is resident once the weights,
the gradients and the optimizer's moments are there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from transformers import PreTrainedModel

import ringattn
from ringattn.data.sequence import Sequence
from ringattn.models.load import new_llama
from ringattn.models.tiled_mlp import tile_mlp
from ringattn.planner.architecture import Architecture
from ringattn.report.table import table
from ringattn.settings.optimizer import OptimizerConfig
from ringattn.training.engine import TorchEngine
from ringattn.training.reader import SequenceReader

PEER = "transformers"
SMOLLM2_135M = Architecture(
    vocabulary=49152,
    hidden_size=576,
    intermediate_size=1536,
    layers=30,
    heads=9,
    key_value_heads=3,
    head_dim=64,
    max_positions=8192,
    tie_embeddings=True,
)


class Contender(Protocol):
    def step(self, tokens: np.ndarray) -> float:
        """Train on int64 [1, L + 1]; the loss."""


class Ours:
    """The trainer's own pieces, over the default process group."""

    def __init__(self, schedule: str, *, loss_chunk: int, mlp_chunk: int) -> None:
        self.sp = ringattn.SequenceParallel(schedule=schedule, timeout=3600)
        model = ringattn.parallelize(_model(), self.sp, gradient_checkpointing=True)
        tile_mlp(model, mlp_chunk)
        self.reader = SequenceReader(model, self.sp, device=torch.device("cpu"), chunk=loss_chunk)
        self.engine = TorchEngine(self.reader, OptimizerConfig(), steps=100, accumulation=1)
        self.steps = 0

    def step(self, tokens: np.ndarray) -> float:
        sequence = Sequence(inputs=tokens[:, :-1], targets=tokens[:, 1:])
        total = self.reader.loss_sum(sequence)
        self.engine.backward(total * self.sp.world / (tokens.shape[1] - 1))
        self.engine.step(self.steps)
        self.steps += 1
        whole = total.detach().clone()
        dist.all_reduce(whole)
        return whole.item() / (tokens.shape[1] - 1)


class Transformers:
    """A loop as its documentation shows it."""

    def __init__(self) -> None:
        self.model = _model()
        self.model.config._attn_implementation = "sdpa"
        self.model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[no-untyped-call]
        self.model.train()
        config = OptimizerConfig()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.learning_rate, betas=(config.beta1, config.beta2)
        )

    def step(self, tokens: np.ndarray) -> float:
        ids = torch.from_numpy(tokens)
        # The same targets as ours: the last token is predicted, and reads nothing.
        loss = self.model(input_ids=ids[:, :-1], shift_labels=ids[:, 1:], labels=ids[:, 1:], use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())


def main() -> None:
    options = _options()
    if options.worker:
        _work(options)
        return
    names = [f"{n} ranks" if n > 1 else "1 rank" for n in options.ranks]
    contenders = dict(zip(names, options.ranks, strict=True)) | ({} if options.only == "ours" else {PEER: 0})
    if options.only == PEER:
        contenders = {PEER: 0}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for _ in range(options.rounds):
        for name, ranks in contenders.items():
            found[name].append(_run(ranks, options))
            print(f"{name}: {found[name][-1]}", file=sys.stderr, flush=True)
    print(
        f"LLaMA of SmolLM2-135M's sizes, {options.tokens} tokens, fp32, AdamW, gradient checkpointing, "
        f"{options.cores} cores, {options.rounds} x {options.steps} steps, torch {torch.__version__}\n"
    )
    rows = []
    for name, rounds in found.items():
        seconds = [second for each in rounds for second in each["seconds"]]
        peak, base = (max(each[key] for each in rounds) / 2**30 for key in ("peak", "base"))
        middle = statistics.median(seconds)
        rows.append([
            name if name == PEER else f"ringattn, {name}", f"{middle:.2f}", f"{min(seconds):.2f} to {max(seconds):.2f}",
            f"{options.tokens / middle:.0f}", f"{peak:.2f}", f"{peak - base:.2f}", f"{rounds[0]['first loss']:.5f}",
        ])  # fmt: skip
    head = ["", "s a step", "from .. to", "tokens/s", "peak, GiB a rank", "beyond weights", "first loss"]
    print(table(head, rows))
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1))


def _run(ranks: int, options: argparse.Namespace) -> dict[str, Any]:
    """One contender's steps in processes of its own; the slowest and the largest of its ranks."""
    processes = max(ranks, 1)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    arguments = [str(Path(__file__).resolve()), "--worker", PEER if ranks == 0 else "ours", *sys.argv[1:]]
    threads = str(max(1, options.cores // processes))
    done = subprocess.run(
        [*command, *arguments], env={**os.environ, "OMP_NUM_THREADS": threads}, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with {done.returncode}")
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def _work(options: argparse.Namespace) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    contender: Contender
    if options.worker == PEER:
        contender = Transformers()
    else:
        contender = Ours(options.schedule, loss_chunk=options.loss_chunk, mlp_chunk=options.mlp_chunk)
    draw = np.random.default_rng(0)
    # A short step first: moments and buffers are there afterwards.
    # Its loss, from the same weights, shows that all do the same work.
    first = contender.step(draw.integers(0, SMOLLM2_135M.vocabulary, (1, 129)))
    base = _resident("VmRSS")
    seconds = []
    for _ in range(options.steps):
        tokens = draw.integers(0, SMOLLM2_135M.vocabulary, (1, options.tokens + 1))
        dist.barrier()
        start = time.perf_counter()
        contender.step(tokens)
        dist.barrier()
        seconds.append(time.perf_counter() - start)
    sizes = torch.tensor([_resident("VmHWM"), base], dtype=torch.int64)
    dist.all_reduce(sizes, op=dist.ReduceOp.MAX)
    if rank == 0:
        print(json.dumps({"seconds": seconds, "first loss": first, "peak": sizes[0].item(), "base": sizes[1].item()}))
    dist.destroy_process_group()


def _model() -> PreTrainedModel:
    return new_llama(SMOLLM2_135M, seed=0)


def _resident(name: str) -> int:
    """Bytes, from Linux's account of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this needs Linux: memory is read from /proc/self/status")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--ranks", default="2", help="of ringattn, with commas between; default %(default)s")
    parser.add_argument("--only", choices=["ours", PEER])
    parser.add_argument("--schedule", default="tokenring")
    parser.add_argument("--loss-chunk", type=int, default=256)
    parser.add_argument("--mlp-chunk", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=2, help="of each contender in a round; default %(default)s")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", default="", help="write every time to this file")
    parser.add_argument("--worker", choices=["ours", PEER], help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.ranks = [int(word) for word in options.ranks.split(",")]
    return options


if __name__ == "__main__":
    main()
