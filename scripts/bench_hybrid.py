"""Hybrids beside full attention: a training step over ranks, and tokens generated at long contexts.

    python scripts/bench_hybrid.py                                   # both tables
    python scripts/bench_hybrid.py --only training --tokens 32768 --ranks 2
    python scripts/bench_hybrid.py --only generation --contexts 4096 16384 65536

Training: each rank is a process of one thread, each model has processes of its own. A step is forward, backward and
AdamW through `ringattn.parallelize`; its time is the processor time of the rank that needs most, the least of
`--rounds`, so that what else the machine does counts little; memory is the largest resident size of a rank, and by how
much the steps raised it.

Generation: one process and thread. Caches are filled with random numbers up to the context, since a token costs the
same whatever they say; a time is the processor time a token, the least of `--rounds` runs of `--new` tokens.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing

import ringattn
from ringattn.models.hybrid import HybridConfig, HybridForCausalLM
from ringattn.models.hybrid.cache import HybridCache, StateLayer
from ringattn.report.table import table

VOCABULARY, HEAD = 256, 64


def main() -> None:
    options = _options()
    if options.only != "generation":
        _training(options)
    if options.only != "training":
        _generation(options)


def make_model(mixer: str, pattern: str, *, layers: int, hidden: int, context: int) -> HybridForCausalLM:
    """Heads of 64 channels, for attention and mixer alike."""
    torch.manual_seed(0)
    heads = hidden // HEAD
    sizes = (1, 1, hidden) if mixer == "hgrn" else (heads, HEAD, HEAD)
    config = HybridConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        mixer=mixer,
        pattern=pattern,
        linear_heads=sizes[0],
        linear_key_dim=sizes[1],
        linear_value_dim=sizes[2],
        max_position_embeddings=context + 1024,
    )
    return HybridForCausalLM(config)


def _training(options: argparse.Namespace) -> None:
    rows, first = [], 0.0
    for pattern in options.patterns:
        with tempfile.TemporaryDirectory() as folder:
            torch.multiprocessing.spawn(_train, (pattern, options, folder), nprocs=options.ranks)
            found = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("rank_*.json"))]
        seconds = max(min(one["cpu"]) for one in found)
        first = first or seconds
        rows.append(
            [
                pattern,
                f"{seconds:.1f}",
                f"{max(min(one['wall']) for one in found):.1f}",
                f"{seconds / first:.2f}",
                f"{max(one['resident'] for one in found) / 2**20:,.0f}",
                f"{max(one['resident'] - one['before'] for one in found) / 2**20:,.0f}",
            ]
        )
    print(
        f"One training step of {options.tokens:,} tokens on {options.ranks} ranks of one thread, "
        f"{options.layers} layers, {options.hidden} wide, {options.mixer}, fp32, schedule {options.schedule}:\n"
    )
    header = ["layers", "processor s", "wall s", f"of {options.patterns[0]}", "resident MiB", "by the steps MiB"]
    print(table(header, rows, left=("layers",)), flush=True)


def _train(rank: int, pattern: str, options: argparse.Namespace, folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", options.ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=options.ranks)
    sp = ringattn.SequenceParallel(schedule=options.schedule, layout="zigzag", timeout=600)
    model = make_model(options.mixer, pattern, layers=options.layers, hidden=options.hidden, context=options.tokens)
    model = ringattn.parallelize(model.train(), sp, gradient_checkpointing=options.checkpointing)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    # Ranks are alike: the same numbers everywhere, of which each takes its part.
    ids = torch.randint(VOCABULARY, (1, options.tokens), generator=torch.Generator().manual_seed(0))
    before, cpu, wall = _resident(), [], []
    for _ in range(options.rounds):
        dist.barrier()
        cpu_began, wall_began = time.process_time(), time.perf_counter()
        model(input_ids=ids, labels=ids).loss.backward()
        for parameter in model.parameters():
            dist.all_reduce(parameter.grad)
        optimizer.step()
        optimizer.zero_grad()
        cpu.append(time.process_time() - cpu_began)
        wall.append(time.perf_counter() - wall_began)
    found = {"cpu": cpu, "wall": wall, "before": before, "resident": _resident()}
    (Path(folder) / f"rank_{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def _resident() -> int:
    """The largest so far, in bytes (Linux counts it in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@torch.no_grad()
def _generation(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    rows = []
    for pattern in options.patterns if "pure" in options.patterns else [*options.patterns, "pure"]:
        model = make_model(
            options.mixer,
            pattern,
            layers=options.layers,
            hidden=options.generation_hidden,
            context=max(options.contexts),
        ).eval()
        for context in options.contexts:
            cache = filled_cache(model, context)
            states, keys = bytes_of(cache)
            seconds = min(_written(model, cache, options.new) for _ in range(options.rounds))
            rows.append(
                [pattern, f"{context:,}", f"{1e3 * seconds:.1f}", f"{states / 2**10:,.1f}", f"{keys / 2**20:,.1f}"]
            )
            del cache
    print(
        f"\nGeneration after a context, {options.layers} layers, {options.generation_hidden} wide, {options.mixer}, "
        "fp32, one thread:\n"
    )
    header = ["layers", "context", "processor ms a token", "states KiB", "keys and values MiB"]
    print(table(header, rows, left=("layers",)), flush=True)


def filled_cache(model: HybridForCausalLM, context: int) -> HybridCache:
    """As after `context` tokens, with random numbers as keys and values and the state of a short text."""
    config = model.config
    cache = HybridCache(config)
    model(torch.randint(VOCABULARY, (1, 64)), past_key_values=cache, logits_to_keep=1)
    for index, layer in enumerate(cache.layers):
        if isinstance(layer, StateLayer):
            layer.tokens = context
        else:
            shape = (1, config.num_key_value_heads, context - 64, config.head_dim)
            cache.update(torch.randn(shape), torch.randn(shape), index)
    return cache


def bytes_of(cache: HybridCache) -> tuple[int, int]:
    """(states, keys and values)."""
    states = keys = 0
    for layer in cache.layers:
        if isinstance(layer, StateLayer):
            assert layer.state is not None
            states += layer.state.bytes
        else:
            keys += layer.keys.nbytes + layer.values.nbytes  # type: ignore[union-attr]
    return states, keys


def _written(model: HybridForCausalLM, cache: HybridCache, tokens: int) -> float:
    """Processor seconds a token, greedily; the cache grows by `tokens`."""
    ids = torch.zeros((1, 1), dtype=torch.int64)
    began = time.process_time()
    for _ in range(tokens):
        ids = model(ids, past_key_values=cache, logits_to_keep=1).logits[:, -1:].argmax(-1)
    return (time.process_time() - began) / tokens


def _options(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("training", "generation"))
    parser.add_argument("--mixer", default="gated_deltanet")
    parser.add_argument("--patterns", nargs="+", default=["full", "3:1"], help="the first is what others are held to")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=64, help="of training; a multiple of 64")
    parser.add_argument("--tokens", type=int, default=32768, help="of a training step, over all ranks")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--schedule", default="tokenring")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    parser.add_argument("--contexts", type=int, nargs="+", default=[4096, 16384, 65536])
    parser.add_argument("--generation-hidden", type=int, default=256, help="of generation; a multiple of 64")
    parser.add_argument("--new", type=int, default=16, help="tokens written in a round")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args(words)
    for name in ("hidden", "generation_hidden"):
        if getattr(options, name) % HEAD or getattr(options, name) < HEAD:
            parser.error(f"--{name.replace('_', '-')} is a multiple of {HEAD}, got {getattr(options, name)}")
    if min(options.contexts) <= 64:
        parser.error(f"--contexts are above 64 tokens, got {min(options.contexts)}")
    return options


if __name__ == "__main__":
    main()
