"""Real gloo ranks inside a test: `run_ranks(world, function, *args)`.

Ranks are processes of a fork server, which has imported torch once for all of them: a world of four starts in about a
second. `threads=True` plays each rank in a thread of this process instead, with torch's own testing internals:
still real gloo over real sockets, and quicker for many small cases, but it is torch's private interface and shares
what a process shares (the default random generator, `warnings`, hooks on classes).

`function(rank, *args)` runs on each rank with the default process group up. It must be importable by name, and what it
takes and returns must pickle.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

# The fork server imports these once, where this process has them, so that no rank does.
_SLOW_IMPORTS = (
    "torch",
    "torch.distributed",
    "ringattn.attention",
    "ringattn.models.parallelize",
    "transformers.models.llama.modeling_llama",
)

# What other ranks may still say after the first has failed, before they are stopped.
_GRACE = 2.0


class RankFailed(AssertionError):
    """A rank raised, died or took too long; the text holds its traceback."""


def run_ranks(
    world: int, function: Callable[..., Any], *args: Any, timeout: float = 60.0, threads: bool = False
) -> list[Any]:
    """What `function(rank, *args)` returns on each rank.

    Raises RankFailed with the traceback of the first rank to fail, or, after `timeout` seconds, with the place where
    each rank stands. Nothing it started is left behind (a thread that hangs ends with the process).
    """
    with tempfile.TemporaryDirectory(prefix="ranks_") as name:
        folder = Path(name)
        if threads:
            return _run_threads(world, function, args, timeout)
        return _run_processes(world, function, args, timeout, folder)


def refusals(
    world: int, function: Callable[..., Any], *args: Any, timeout: float = 60.0, threads: bool = False
) -> list[str]:
    """The text of the ValueError that `function(rank, *args)` raises on each rank; all ranks must raise one."""
    return run_ranks(world, _refusal_text, function, args, timeout=timeout, threads=threads)


def _refusal_text(rank: int, function: Callable[..., Any], args: tuple[Any, ...]) -> str:
    try:
        function(rank, *args)
    except ValueError as error:
        return str(error)
    raise AssertionError(f"rank {rank} raised no ValueError")


def _run_processes(
    world: int, function: Callable[..., Any], args: tuple[Any, ...], timeout: float, folder: Path
) -> list[Any]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([name for name in _SLOW_IMPORTS if name in sys.modules])
    torch.save((function, args), folder / "work")
    # The server's imports are not the ranks' time.
    ready = context.Process(target=time.monotonic)
    ready.start()
    ready.join()
    deadline = time.monotonic() + timeout
    ranks = [
        context.Process(target=_work_in_process, args=(rank, world, str(folder), deadline), daemon=True)
        for rank in range(world)
    ]
    for process in ranks:
        process.start()
    exit_codes: list[int | None] = [None] * world
    try:
        _wait(ranks, deadline)
        exit_codes = [process.exitcode for process in ranks]
    finally:
        for process in ranks:
            if process.is_alive():
                process.kill()
            process.join()
    failed = sorted(folder.glob("error_*"), key=lambda path: path.stat().st_mtime_ns)
    if failed:
        raise RankFailed(f"rank {failed[0].name.split('_')[1]} of {world} failed:\n{failed[0].read_text()}")
    silent = [rank for rank in range(world) if not (folder / f"result_{rank}").exists()]
    for rank in silent:
        if exit_codes[rank]:
            raise RankFailed(f"rank {rank} ended with exit code {exit_codes[rank]} and said nothing")
    if silent:
        raise RankFailed(_places(silent, timeout, folder))
    return [torch.load(folder / f"result_{rank}", weights_only=False) for rank in range(world)]


def _wait(ranks: list[Any], deadline: float) -> None:
    """Until all have ended, the time is over, or one has failed and the others have had a moment to say more."""
    while alive := [process for process in ranks if process.is_alive()]:
        if any(process.exitcode for process in ranks):
            deadline = min(deadline, time.monotonic() + _GRACE)
        left = deadline - time.monotonic()
        if left <= 0:
            return
        connection.wait([process.sentinel for process in alive], left)


def _places(silent: list[int], timeout: float, folder: Path) -> str:
    places = [f"rank {rank} stood at\n{(folder / f'stack_{rank}').read_text()}" for rank in silent]
    return "\n".join([f"ranks {silent} had no result within {timeout:g} s", *places])


def _work_in_process(rank: int, world: int, name: str, deadline: float) -> None:
    folder = Path(name)
    timeout = max(deadline - time.monotonic(), 1.0)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    with (folder / f"stack_{rank}").open("w") as stack:
        faulthandler.dump_traceback_later(0.9 * timeout, file=stack)
        try:
            function, args = torch.load(folder / "work", weights_only=False)
            store = dist.FileStore(str(folder / "store"), world)
            dist.init_process_group(
                "gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=timeout)
            )
            result = function(rank, *args)
            torch.save(result, folder / f"part_{rank}")
            (folder / f"part_{rank}").rename(folder / f"result_{rank}")
            dist.barrier()
            dist.destroy_process_group()
        except BaseException:
            # Whatever it was, the parent must hear of it: written whole, then shown under its final name.
            if not (folder / f"result_{rank}").exists():
                (folder / f"raised_{rank}").write_text(traceback.format_exc())
                (folder / f"raised_{rank}").rename(folder / f"error_{rank}")
            os._exit(1)
        finally:
            faulthandler.cancel_dump_traceback_later()


def _run_threads(world: int, function: Callable[..., Any], args: tuple[Any, ...], timeout: float) -> list[Any]:
    from torch.testing._internal.distributed import multi_threaded_pg

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    results: dict[int, Any] = {}
    failures: list[tuple[int, str]] = []
    store = dist.HashStore()

    def work(rank: int) -> None:
        try:
            dist.init_process_group(
                "gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=timeout)
            )
            results[rank] = function(rank, *args)
            dist.barrier()
        except BaseException:
            failures.append((rank, traceback.format_exc()))
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()

    threads_before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch._C._distributed_c10d._set_thread_isolation_mode(True)
    multi_threaded_pg._install_threaded_pg()
    ranks = [threading.Thread(target=work, args=(rank,), daemon=True) for rank in range(world)]
    try:
        for thread in ranks:
            thread.start()
        deadline = time.monotonic() + timeout
        while any(thread.is_alive() for thread in ranks):
            if failures:
                deadline = min(deadline, time.monotonic() + _GRACE)
            if time.monotonic() > deadline:
                break
            time.sleep(0.002)
    finally:
        multi_threaded_pg._uninstall_threaded_pg()
        torch._C._distributed_c10d._set_thread_isolation_mode(False)
        torch.set_num_threads(threads_before)
    if failures:
        raise RankFailed(f"rank {failures[0][0]} of {world} failed:\n{failures[0][1]}")
    missing = [rank for rank in range(world) if rank not in results]
    if missing:
        raise RankFailed(f"rank {missing[0]} had no result within {timeout:g} s")
    return [results[rank] for rank in range(world)]
