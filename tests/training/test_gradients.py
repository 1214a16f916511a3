"""Gradients averaged over real gloo ranks, and clipping by the global norm."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ringattn.training.gradients import average_gradients, clip_gradients

SHAPES = [(3, 4), (5,), (2, 2), (1,)]


def parameters(rank, dtype=torch.float32):
    made = [torch.nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in SHAPES]
    for number, parameter in enumerate(made):
        parameter.grad = torch.full_like(parameter, 10.0 * number + rank)
    return made


def averaged_rank(rank, world, store, failures):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    try:
        mine = parameters(rank)
        if rank == 2:
            mine[1].grad = None  # A rank without tokens.
        average_gradients(mine, bucket_bytes=40)  # Two parameters a bucket at most.
        for number, parameter in enumerate(mine):
            ranks = [0, 1] if number == 1 else [0, 1, 2]
            expected = sum(10.0 * number + r for r in ranks) / world
            torch.testing.assert_close(parameter.grad, torch.full_like(parameter, expected))
        half = parameters(rank, torch.bfloat16)
        average_gradients(half)
        assert half[3].grad.dtype == torch.bfloat16 and half[3].grad.item() == 31.0
    except AssertionError as error:
        failures.put(f"rank {rank}: {error}")
        raise
    finally:
        dist.destroy_process_group()


def test_every_rank_gets_the_average(tmp_path):
    failures = mp.get_context("spawn").SimpleQueue()
    mp.spawn(averaged_rank, args=(3, str(tmp_path / "store"), failures), nprocs=3)
    assert failures.empty()


def test_one_process_keeps_its_gradients_and_fills_missing_ones():
    mine = parameters(1)
    mine[0].grad = None
    average_gradients(mine)
    assert (mine[0].grad == 0).all() and (mine[1].grad == 11).all()


def test_clipping_scales_to_the_norm_over_all_parameters():
    mine = [torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))]
    mine[0].grad, mine[1].grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert clip_gradients(mine, 10.0) == pytest.approx(5.0)
    assert [p.grad.item() for p in mine] == [3.0, 4.0]
    assert clip_gradients(mine, 1.0) == pytest.approx(5.0)
    assert [p.grad.item() for p in mine] == pytest.approx([0.6, 0.8])
    assert clip_gradients([torch.nn.Parameter(torch.zeros(1))], 1.0) == 0.0
