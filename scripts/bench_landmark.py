"""Landmark attention beside full causal attention of the same shape: the kernel alone, and a training step of a model.

    python scripts/bench_landmark.py --tokens 1024,2048,4096

One process and one thread; seconds are of processor time, so that others on the machine count little. Rounds alternate
between the two, so that a machine whose speed drifts favours neither, and medians are compared. The model is a LLaMA
whose attention is one or the other, with the same weights and batch; lengths are those of the sequence with landmarks,
so both compute over as many tokens.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

import ringattn


class Landmarks(ringattn.SequenceParallel):
    """A `SequenceParallel` whose attention has landmarks, whoever calls it."""

    block = 63

    def attention(self, *tensors: torch.Tensor, **options: object) -> torch.Tensor:
        return super().attention(*tensors, landmark_block=self.block, **options)


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    print(
        f"{options.heads} heads of {options.head_dim} over {options.key_heads}, blocks of {options.block} tokens and a "
        f"landmark, {options.dtype}, forward + backward, one thread, median of {options.rounds}, "
        f"torch {torch.__version__}"
    )
    print(f"{'':12}{'tokens':>8}{'full':>10}{'landmark':>10}{'ratio':>8}   ratios of the rounds")
    found = []
    for tokens in options.tokens:
        runs = {"attention": _attention(options, tokens)}
        if options.layers:
            runs["model step"] = _model(options, tokens)
        for what, pair in runs.items():
            full, landmark = _alternate(pair, options.rounds)
            ratios = sorted(b / a for a, b in zip(full, landmark, strict=True))
            middle = statistics.median(full), statistics.median(landmark)
            print(
                f"{what:12}{tokens:8}{middle[0]:9.3f}s{middle[1]:9.3f}s{middle[1] / middle[0]:8.2f}"
                f"   {ratios[0]:.2f} to {ratios[-1]:.2f}",
                flush=True,
            )
            found.append({"what": what, "tokens": tokens, "full": full, "landmark": landmark})
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=lambda s: [int(x) for x in s.split(",")], default=[1024, 2048, 4096])
    parser.add_argument("--block", type=int, default=63)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--key-heads", type=int, default=8)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--layers", type=int, default=4, help="of the model; 0 times attention alone")
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", default="", help="write every time to this file")
    return parser.parse_args()


def _attention(options: argparse.Namespace, tokens: int) -> tuple[Callable[[], None], Callable[[], None]]:
    torch.manual_seed(0)
    dtype = getattr(torch, options.dtype)
    query, grad = (torch.randn(1, tokens, options.heads, options.head_dim, dtype=dtype) for _ in range(2))
    key, value = (torch.randn(1, tokens, options.key_heads, options.head_dim, dtype=dtype) for _ in range(2))
    tensors = [x.requires_grad_() for x in (query, key, value)]
    sp = ringattn.SequenceParallel()

    def run(block: int | None) -> None:
        torch.autograd.grad(sp.attention(*tensors, landmark_block=block), tensors, grad)

    return partial(run, None), partial(run, options.block)


def _model(options: argparse.Namespace, tokens: int) -> tuple[Callable[[], None], Callable[[], None]]:
    from transformers import LlamaConfig, LlamaForCausalLM

    Landmarks.block = options.block
    width = options.heads * options.head_dim
    config = LlamaConfig(
        hidden_size=width, intermediate_size=int(2.75 * width) // 64 * 64, num_hidden_layers=options.layers,
        num_attention_heads=options.heads, num_key_value_heads=options.key_heads, head_dim=options.head_dim,
        vocab_size=options.vocabulary, max_position_embeddings=max(options.tokens), use_cache=False,
    )  # fmt: skip
    ids = torch.randint(0, options.vocabulary, (1, tokens), generator=torch.Generator().manual_seed(0))
    steps = []
    for sp in (ringattn.SequenceParallel(), Landmarks()):
        torch.manual_seed(0)
        model = ringattn.parallelize(LlamaForCausalLM(config).to(getattr(torch, options.dtype)), sp)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        steps.append(partial(_step, model, optimizer, ids))
    return steps[0], steps[1]


def _step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, ids: torch.Tensor) -> None:
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def _alternate(pair: tuple[Callable[[], None], Callable[[], None]], rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of each of `rounds` runs of both, after one that is not counted."""
    seconds: tuple[list[float], list[float]] = [], []
    for index in range(rounds + 1):
        for run, times in zip(pair, seconds, strict=True):
            start = time.process_time()
            run()
            if index:
                times.append(time.process_time() - start)
    return seconds


if __name__ == "__main__":
    main()
