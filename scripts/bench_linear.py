"""Linear attention on one core: time per token from 4k to 64k tokens, and beside other implementations in pure torch.

    python scripts/bench_linear.py                    # both tables
    python scripts/bench_linear.py --only lengths --mixers gated_deltanet gla
    python scripts/bench_linear.py --only peers       # fla's functions are there where fla-core is installed

A time is the processor time of a forward and a backward on one thread, the least of `--rounds`; the rounds go through
all rows, so that whatever else the machine does meets each of them. fla's Triton kernels are not measured: its
functions here are those that it calls naive, in chunks where such a form works, which run on a CPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from types import ModuleType

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ringattn.layers.linear.attention import linear_attention
from ringattn.layers.linear.channels import channels
from ringattn.layers.linear.context import Context
from ringattn.layers.linear.mixers import MIXERS
from ringattn.layers.linear.mixers.mixer import MixerSizes
from ringattn.report.table import table

LENGTHS = (4096, 8192, 16384, 32768, 65536)
HIDDEN, HEADS, CHANNELS = 256, 4, 64
Step = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("lengths", "peers"))
    parser.add_argument("--mixers", nargs="+", default=sorted(MIXERS), choices=sorted(MIXERS))
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.only != "peers":
        by_length(options.mixers, options.lengths, rounds=options.rounds)
    if options.only != "lengths":
        beside_peers(rounds=options.rounds)


def by_length(mixers: Sequence[str], lengths: Sequence[int], *, rounds: int) -> None:
    """A mixer's layer [1, n, 256], 4 heads of 64 channels (HGRN: 256 channels), fp32."""
    print("\nforward and backward of a layer, microseconds a token\n")
    print("mixer".rjust(14), *(f"{length:,}".rjust(8) for length in lengths), "spread".rjust(8))
    for name in mixers:
        found = least([lambda name=name, length=length: layer_step(name, length) for length in lengths], rounds)
        each = [1e6 * seconds / length for seconds, length in zip(found, lengths, strict=True)]
        spread = f"{100 * (max(each) / min(each) - 1):.0f} %"
        # As they come: all of them take minutes.
        print(name.rjust(14), *(f"{one:.2f}".rjust(8) for one in each), spread.rjust(8), flush=True)


def layer_step(name: str, length: int) -> Step:
    torch.manual_seed(0)
    heads, key_dim, value_dim = (1, 1, HIDDEN) if name == "hgrn" else (HEADS, CHANNELS, CHANNELS)
    mixer = MIXERS[name](MixerSizes(hidden_size=HIDDEN, heads=heads, key_dim=key_dim, value_dim=value_dim))
    hidden, context = torch.randn(1, length, HIDDEN), Context.alone(length)
    return lambda: mixer(hidden, context=context).sum().backward()


def beside_peers(*, rounds: int, length: int = 4096) -> None:
    """[1, 4096, 4, 64], fp32; whether the results agree is said too."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, length, HEADS, CHANNELS) for _ in range(3))
    key, query = normalize(key, dim=-1), normalize(query, dim=-1)
    scalar = -torch.rand(1, length, HEADS)
    channel = -torch.rand(1, length, HEADS, CHANNELS) * 0.5
    beta = torch.rand(1, length, HEADS)
    context = Context.alone(length)
    gated_delta, kda, gla, hgrn = (fla(name) for name in ("gated_delta_rule", "kda", "simple_gla", "hgrn"))

    def ours(log_decay: Tensor | None = None, beta: Tensor | None = None) -> Callable[..., Tensor]:
        def function(*given: Tensor) -> Tensor:
            q, k, v, *rest = given
            found = iter(rest)
            decay = next(found) if log_decay is not None else None
            share = next(found) if beta is not None else None
            return linear_attention(q, k, v, context=context, log_decay=decay, beta=share)[0]

        return function

    def plain_hgrn(x: Tensor, decay: Tensor) -> Tensor:
        return channels(x, decay, context.pieces(x.device))[0]

    wide = torch.randn(1, length, HEADS * CHANNELS)
    forget = -torch.rand(1, length, HEADS * CHANNELS)
    with_delta = (query, key, value, scalar, beta)
    cases: list[tuple[str, str, Callable[..., Tensor] | None, tuple[Tensor, ...]]] = [
        ("gated delta rule", "ringattn", ours(scalar, beta), with_delta),
        ("", "transformers, torch_chunk_gated_delta_rule", transformers_gated_delta(), with_delta),
        ("", "fla, naive_chunk_gated_delta_rule", fla_gated_delta(gated_delta), with_delta),
        ("KDA", "ringattn", ours(channel, beta), (query, key, value, channel, beta)),
        ("", "fla, naive_chunk_kda", fla_kda(kda), (query, key, value, channel, beta)),
        ("one decay a head", "ringattn", ours(scalar), (query, key, value, scalar)),
        ("", "fla, naive_chunk_simple_gla", fla_gla(gla), (query, key, value, scalar)),
        ("one decay a channel", "ringattn", ours(channel), (query, key, value, channel)),
        ("HGRN", "ringattn", plain_hgrn, (wide, forget)),
        ("", "fla, naive_recurrent_hgrn", fla_hgrn(hgrn), (wide, forget)),
    ]
    there = [(*case[:2], case[2], case[3]) for case in cases if case[2] is not None]
    steps = [lambda function=function, given=given: whole_step(function, given) for _, _, function, given in there]
    times, rows, expected = least(steps, rounds), [], None
    for (kind, name, function, given), seconds in zip(there, times, strict=True):
        with torch.no_grad():
            out = function(*given)
        expected = out if kind else expected
        assert expected is not None
        off = float((out - expected).abs().max() / expected.abs().max())
        rows.append([kind, name, f"{1e6 * seconds / length:.2f}", "" if kind else f"{off:.0e}"])
    print(f"\nforward and backward, {length:,} tokens, {HEADS} heads of {CHANNELS} channels\n")
    print(table(["recurrence", "of", "microseconds a token", "off from ours"], rows), flush=True)


def whole_step(function: Callable[..., Tensor], given: Sequence[Tensor]) -> Step:
    leaves = [x.clone().requires_grad_() for x in given]
    return lambda: function(*leaves).sum().backward()


def least(makers: Sequence[Callable[[], Step]], rounds: int) -> list[float]:
    """The least processor time of each step, seconds; a first round is not counted. One step is held at a time."""
    found = [float("inf")] * len(makers)
    for turn in range(rounds + 1):
        for number, make in enumerate(makers):
            step = make()
            started = time.process_time()
            step()
            if turn:
                found[number] = min(found[number], time.process_time() - started)
    return found


def transformers_gated_delta() -> Callable[..., Tensor]:
    from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule

    return lambda q, k, v, g, beta: torch_chunk_gated_delta_rule(q, k, v, g=g, beta=beta)[0]


def fla(family: str) -> ModuleType | None:
    """The naive functions of fla, from their own file: the package itself imports only where there is Triton."""
    try:
        files = distribution("fla-core").files or []
    except PackageNotFoundError:
        return None
    for file in files:
        if str(file).endswith(f"fla/ops/{family}/naive.py"):
            spec = importlib.util.spec_from_file_location(f"fla_naive_{family}", str(file.locate()))
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    return None


def fla_gated_delta(naive: ModuleType | None) -> Callable[..., Tensor] | None:
    return None if naive is None else lambda q, k, v, g, b: naive.naive_chunk_gated_delta_rule(q, k, v, g, b)[0]


def fla_kda(naive: ModuleType | None) -> Callable[..., Tensor] | None:
    return None if naive is None else lambda q, k, v, g, b: naive.naive_chunk_kda(q, k, v, g, b)[0]


def fla_gla(naive: ModuleType | None) -> Callable[..., Tensor] | None:
    scale = CHANNELS**-0.5
    return None if naive is None else lambda q, k, v, g: naive.naive_chunk_simple_gla(q, k, v, g, scale=scale)[0]


def fla_hgrn(naive: ModuleType | None) -> Callable[..., Tensor] | None:
    return None if naive is None else lambda x, g: naive.naive_recurrent_hgrn(x, g)[0]


if __name__ == "__main__":
    main()
