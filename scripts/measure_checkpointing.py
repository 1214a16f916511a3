"""Time of a training step with no checkpointing, with checkpointing that keeps attention, and with plain checkpointing.

    python scripts/measure_checkpointing.py --ranks 2 --tokens 4096

A small LLaMA with random weights, forward and backward over full inputs, one thread a rank. Rounds alternate between
the three, all in one run, and medians are compared, so that a machine whose speed drifts does not favour anyone.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
import torch.distributed as dist
from transformers import LlamaConfig, LlamaForCausalLM

import ringattn


def main() -> None:
    options = _options()
    if "RANK" not in os.environ:
        raise SystemExit(_start_ranks(options.ranks))
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    world = dist.get_world_size()
    sp = ringattn.SequenceParallel(schedule=options.schedule, timeout=120)
    models = _models(options, sp)
    tokens = torch.randint(0, 512, (1, options.tokens), generator=torch.Generator().manual_seed(0))

    seconds: dict[str, list[float]] = {name: [] for name in models}
    sent: dict[str, int] = {}
    for round_ in range(options.rounds + 1):
        for name, model in models.items():
            before = sp.counter.sent_bytes
            dist.barrier()
            start = time.perf_counter()
            model(input_ids=tokens, labels=tokens).loss.backward()
            spent = torch.tensor(time.perf_counter() - start)
            dist.all_reduce(spent, op=dist.ReduceOp.MAX)
            sent[name] = sp.counter.sent_bytes - before
            if round_:
                seconds[name].append(spent.item())
    if dist.get_rank() == 0:
        print(
            f"LLaMA of {options.layers} layers of {options.heads} heads of 64, {options.tokens} tokens, fp32, "
            f"{options.schedule} on {world} ranks, forward + backward, median of {options.rounds}, "
            f"torch {torch.__version__}"
        )
        middle = {name: statistics.median(times) for name, times in seconds.items()}
        for name in models:
            print(
                f"{name:32} {middle[name]:7.3f} s  {middle[name] / middle[PLAIN]:5.2f}  "
                f"({min(seconds[name]):.3f} to {max(seconds[name]):.3f} s)  "
                f"{sent[name] / 2**20:7.1f} MiB sent by rank 0"
            )
        print(f"keeping attention over not keeping it: {middle[KEEPING] / middle[DROPPING]:.3f}")
    dist.destroy_process_group()


PLAIN, KEEPING, DROPPING = "no checkpointing", "checkpointing, attention kept", "checkpointing, nothing kept"


def _models(options: argparse.Namespace, sp: ringattn.SequenceParallel) -> dict[str, Any]:
    torch.manual_seed(0)
    width = 64 * options.heads
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=512,
            hidden_size=width,
            intermediate_size=width * 8 // 3,
            num_hidden_layers=options.layers,
            num_attention_heads=options.heads,
            max_position_embeddings=options.tokens,
        )
    ).train()
    return {
        PLAIN: ringattn.parallelize(copy.deepcopy(model), sp),
        KEEPING: ringattn.parallelize(copy.deepcopy(model), sp, gradient_checkpointing=True),
        DROPPING: ringattn.parallelize(model, sp, gradient_checkpointing=True, keep_attention=False),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--schedule", default="tokenring")
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def _start_ranks(ranks: int) -> int:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *sys.argv], env=environment).returncode


if __name__ == "__main__":
    main()
