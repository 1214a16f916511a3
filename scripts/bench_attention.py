"""Attention forward + backward of each schedule, as a ratio to one process's full attention divided by the cores.

    python scripts/bench_attention.py --ranks 2 --tokens 8192

All figures are from one run: rounds alternate between full attention on one rank (the others wait) and every
schedule, one thread a rank, and medians are compared, so that a machine whose speed drifts does not favour anyone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

import ringattn
from ringattn.kernels.cpu_flash import CpuFlash


def main() -> None:
    options = _options()
    if "RANK" not in os.environ:
        raise SystemExit(_start_ranks(options.ranks))
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    cores = min(world, options.cores)
    torch.manual_seed(0)
    shape = (1, options.tokens, options.heads, options.head_dim)
    key_shape = (1, options.tokens, options.key_heads or options.heads, options.head_dim)
    query, key, value = torch.randn(shape), torch.randn(key_shape), torch.randn(key_shape)
    grad = torch.randn(shape)

    runs: dict[str, Callable[[], None]] = {}
    for spec in options.schedules.split(","):
        if options.layout == "best":
            layout = "contiguous" if spec.startswith("ulysses") else "zigzag"
        else:
            layout = options.layout
        runs[spec] = _ringattn(spec, layout, query, key, value, grad)
    if "torch" in options.peers:
        runs["torch ring (private API)"] = _torch_ring(query, key, value, grad)
    if "deepspeed" in options.peers:
        runs["DeepSpeed DistributedAttention"] = _deepspeed(query, key, value, grad)

    seconds: dict[str, list[float]] = {name: [] for name in ["full", *runs]}
    for round_ in range(options.rounds + 1):
        dist.barrier()
        if rank == 0:
            spent = _timed(lambda: _full(query, key, value, grad))
            if round_:
                seconds["full"].append(spent)
        for name, run in runs.items():
            dist.barrier()
            spent = torch.tensor(_timed(run))
            dist.all_reduce(spent, op=dist.ReduceOp.MAX)
            if round_:
                seconds[name].append(spent.item())
    if rank == 0:
        ideal = statistics.median(seconds["full"]) / cores
        print(
            f"{options.tokens} tokens, {options.heads} heads of {options.head_dim}, "
            f"{options.key_heads or options.heads} key heads, causal, fp32, {world} ranks on {cores} cores, "
            f"forward + backward, median of {options.rounds}, torch {torch.__version__}"
        )
        print(f"{'full attention / cores':32} {ideal:8.3f} s   1.00")
        for name in runs:
            middle = statistics.median(seconds[name])
            print(
                f"{name:32} {middle:8.3f} s  {middle / ideal:5.2f}   "
                f"({min(seconds[name]) / ideal:.2f} to {max(seconds[name]) / ideal:.2f})"
            )
        if options.json:
            Path(options.json).write_text(json.dumps({"cores": cores, "seconds": seconds}, indent=1))
    dist.destroy_process_group()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--key-heads", type=int, default=0, help="as many as heads unless given")
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layout", default="best", help="best: contiguous for ulysses, zigzag for the others")
    parser.add_argument("--schedules", default=",".join(s for s in ringattn.schedules() if s != "grid"))
    parser.add_argument("--peers", default="", help="any of torch,deepspeed")
    parser.add_argument("--json", default="", help="write every time to this file")
    return parser.parse_args()


def _start_ranks(ranks: int) -> int:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    # DeepSpeed compiles a part of itself on first use, under a lock that a killed run leaves behind: not in the
    # user's own folder.
    extensions = str(Path(__file__).resolve().parent.parent / ".cache" / "torch_extensions")
    environment = {"TORCH_EXTENSIONS_DIR": extensions, **os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *sys.argv], env=environment).returncode


def _timed(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _full(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, grad: torch.Tensor) -> None:
    """The same CPU operator over the whole sequence, forward and backward."""
    q, k, v, g = (x.transpose(1, 2) for x in (query, key, value, grad))
    forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    out, lse = forward(q, k, v, 0.0, True)
    backward(g, q, k, v, out, lse, 0.0, True)


def _ringattn(
    spec: str, layout: str, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, grad: torch.Tensor
) -> Callable[[], None]:
    sp = ringattn.SequenceParallel(schedule=spec, layout=layout, kernel=CpuFlash.name, timeout=120)
    q, k, v = (sp.shard(x, 1).requires_grad_() for x in (query, key, value))
    g = sp.shard(grad, 1)
    length = query.shape[1]

    def run() -> None:
        torch.autograd.grad(sp.attention(q, k, v, length=length), (q, k, v), g)

    return run


def _torch_ring(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, grad: torch.Tensor) -> Callable[[], None]:
    """torch's templated ring attention, causal, balanced as it balances itself (head and tail chunks)."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.experimental._context_parallel import _attention as ring

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    sp = ringattn.SequenceParallel(layout="zigzag", timeout=120)
    q, k, v, g = (sp.shard(x, 1).transpose(1, 2).contiguous() for x in (query, key, value, grad))
    forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

    def run() -> None:
        out, lse = ring._templated_ring_attention(mesh.get_group(), 2, forward.default, q, k, v, is_causal=True)[:2]
        ring._templated_ring_attention_backward(
            mesh.get_group(),
            2,
            backward.default,
            grad_out=g,
            grad_out_name="grad_out",
            query=q,
            key=k,
            value=v,
            out=out,
            logsumexp=lse,
            dropout_p=0.0,
            is_causal=True,
        )

    return run


def _deepspeed(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, grad: torch.Tensor) -> Callable[[], None]:
    """DeepSpeed Ulysses around torch's scaled dot product attention."""
    import deepspeed
    from deepspeed.sequence.layer import DistributedAttention

    deepspeed.init_distributed(dist_backend="gloo", verbose=False)

    def local(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return out.transpose(1, 2).contiguous()

    attention = DistributedAttention(local, dist.group.WORLD, scatter_idx=2, gather_idx=1)
    sp = ringattn.SequenceParallel(layout="contiguous", timeout=120)
    q, k, v = (sp.shard(x, 1).contiguous().requires_grad_() for x in (query, key, value))
    g = sp.shard(grad, 1).contiguous()

    def run() -> None:
        torch.autograd.grad(attention(q, k, v, 0), (q, k, v), g)

    return run


if __name__ == "__main__":
    main()
