"""The helper that starts gloo ranks in tests: results by rank, the first traceback, a hard timeout."""

import os
import time

import pytest
import torch
import torch.distributed as dist
from ranks import RankFailed, refusals, run_ranks


def summed(rank: int, start: int) -> list[int]:
    x = torch.tensor([start + rank])
    dist.all_reduce(x)
    return [rank, dist.get_world_size(), int(x)]


def fails_on_rank_one(rank: int) -> None:
    if rank == 1:
        raise RuntimeError("rank one is unwell")
    dist.barrier()


def dies_on_rank_one(rank: int) -> None:
    if rank == 1:
        os._exit(9)
    time.sleep(30)


def hangs_on_rank_zero(rank: int) -> None:
    if rank == 0:
        time.sleep(60)


def refuses(rank: int) -> None:
    raise ValueError(f"rank {rank} says no")


@pytest.mark.parametrize("threads", [False, True])
def test_each_rank_returns_its_result(threads: bool) -> None:
    assert run_ranks(3, summed, 10, threads=threads) == [[0, 3, 33], [1, 3, 33], [2, 3, 33]]


@pytest.mark.parametrize("threads", [False, True])
def test_the_failing_ranks_traceback_is_shown(threads: bool) -> None:
    with pytest.raises(RankFailed, match=r"(?s)rank 1 of 2 failed.*rank one is unwell"):
        run_ranks(2, fails_on_rank_one, threads=threads, timeout=20)


def test_a_rank_that_dies_is_named_at_once() -> None:
    started = time.monotonic()
    with pytest.raises(RankFailed, match="rank 1 ended with exit code 9"):
        run_ranks(2, dies_on_rank_one, timeout=40)
    assert time.monotonic() - started < 20


def test_a_hang_ends_at_the_timeout_and_shows_where() -> None:
    with pytest.raises(RankFailed, match=r"(?s)ranks \[0\] had no result within 6 s.*hangs_on_rank_zero"):
        run_ranks(2, hangs_on_rank_zero, timeout=6)


@pytest.mark.parametrize("threads", [False, True])
def test_refusals_gives_the_text_of_every_rank(threads: bool) -> None:
    assert refusals(2, refuses, threads=threads) == ["rank 0 says no", "rank 1 says no"]
