"""A worker's device and threads, from the place that its launcher gave it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import torch
import torch.distributed as dist
from ringattn.launch.cores import cores


def choose_device(wanted: str) -> torch.device:
    """This rank's device: its own GPU where there are GPUs, else the CPU."""
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    number, local = torch.cuda.device_count(), int(os.environ["LOCAL_RANK"])
    if local >= number:
        raise ValueError(
            f"each process needs a GPU of its own, but process {local} of this machine finds {number}: set "
            f"launcher.processes={max(1, number)}, or launcher.device=cpu."
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def check_precision(precision: str, device: torch.device) -> str | None:
    """None, or a warning where `device` computes in `precision` far slower than in fp32.

    Raises:
        ValueError: it can't compute in it at all.
    """
    if precision != "bfloat16":
        return None
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ValueError(
            f"trainer.precision=bfloat16 needs a GPU that computes in bf16, and {torch.cuda.get_device_name(device)} "
            "does not: write trainer.precision=float32."
        )
    if device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        capability = torch.backends.cpu.get_cpu_capability()
        return f"this CPU ({capability}) has no bf16 arithmetic: trainer.precision=float32 is several times faster here"
    return None


def local_world_size() -> int:
    """Ranks on this host, as torchrun says it or DeepSpeed's launcher; 1 where none of them does."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or 1)


def worker_threads(wanted: int | None) -> int:
    """Threads of one worker: the cores of this machine shared evenly, one at least."""
    return wanted or max(1, cores() // local_world_size())


def shared_threads(group: dist.ProcessGroup | None = None) -> int:
    """The cores of this machine shared evenly among its ranks, in whichever container or network namespace they are;
    one at least. Collective over a gloo group, the default one unless given."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    machine = boot.read_text() if boot.exists() else socket.gethostname()
    everyone = [machine] * dist.get_world_size(group)
    dist.all_gather_object(everyone, machine, group=group)
    return max(1, cores() // everyone.count(machine))
