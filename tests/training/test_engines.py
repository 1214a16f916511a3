"""Every mesh, accumulation and engine trains as one process does; sequences differ in how many targets they have."""

import pytest
import torch
from engine_runs import difference, model, on_rank, run
from ranks import run_ranks

TOLERANCE = 1e-5  # fp32, five AdamW steps


@pytest.fixture(scope="module")
def alone():
    torch.set_num_threads(1)
    return {n: run(1, sequences=n) for n in (4, 8)}


@pytest.mark.parametrize("degree", [4, 2, pytest.param(1, marks=pytest.mark.slow)])
def test_a_mesh_trains_as_one_process(degree, alone):
    options = [{"sequences": 4}, {"sequences": 8}] if degree < 4 else [{"sequences": 4}]
    for found in run_ranks(4, on_rank, degree, options):
        for each, option in zip(found, options, strict=True):
            assert difference(each, alone[option["sequences"]]) < TOLERANCE


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("degree", [4, 2, 1])
def test_every_zero_stage_trains_as_one_process(degree, alone):
    pytest.importorskip("deepspeed")
    # Data-parallel rows of 4 / degree ranks: 4 sequences a step are 1, 2 or 4 accumulation parts, 8 twice as many.
    options = [{"stage": stage, "sequences": n} for stage in (0, 1, 2, 3) for n in (4, 8)]
    for found in run_ranks(4, on_rank, degree, options, timeout=800):
        for each, option in zip(found, options, strict=True):
            assert difference(each, alone[option["sequences"]]) < TOLERANCE, option


@pytest.mark.timeout(300)
def test_zero_stages_train_as_one_process(alone):
    pytest.importorskip("deepspeed")
    options = [{"stage": 2}, {"stage": 3}]
    for found in run_ranks(2, on_rank, 2, options, timeout=280):
        for each in found:
            assert difference(each, alone[4]) < TOLERANCE


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_optimizer_in_the_host_s_memory_trains_as_one_process(alone):
    pytest.importorskip("deepspeed")
    options = [{"stage": stage, "offload": True} for stage in (1, 2, 3)]
    for found in run_ranks(2, on_rank, 2, options, timeout=800):
        for each in found:
            assert difference(each, alone[4]) < TOLERANCE


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_bf16_with_fp32_weights_in_the_optimizer_moves_them_as_fp32_does(alone):
    pytest.importorskip("deepspeed")
    start = {name: weight.detach() for name, weight in model().named_parameters()}
    stages = (1, 2, 3)
    for found in run_ranks(2, on_rank, 2, [{"stage": stage, "bfloat16": True} for stage in stages], timeout=800):
        for stage, (losses, _, weights) in zip(stages, found, strict=True):
            assert losses == pytest.approx(alone[4][0], rel=5e-3), stage
            for name, expected in alone[4][2].items():
                moved, wanted = (weights[name] - start[name]).flatten(), (expected - start[name]).flatten()
                assert float(torch.nn.functional.cosine_similarity(moved, wanted, dim=0)) > 0.95, (stage, name)


def test_a_run_goes_on_at_another_world_size_as_if_never_stopped(tmp_path, alone):
    """From two ranks to two rows of two, and to one process."""
    run_ranks(2, on_rank, 2, [{"stop_at": 2, "folder": str(tmp_path)}])
    again = {"start": str(tmp_path)}
    expected = (alone[4][0][2:], alone[4][1], alone[4][2])
    for found in (*(each[0] for each in run_ranks(4, on_rank, 2, [again])), run(1, **again)):
        assert difference(found, expected) < TOLERANCE


def test_at_the_same_world_size_it_goes_on_to_the_bit(tmp_path):
    runs = [{}, {"stop_at": 3, "folder": str(tmp_path)}, {"start": str(tmp_path)}]
    for whole, _, again in run_ranks(2, on_rank, 2, runs):
        assert again[0] == whole[0][3:]
        assert all(torch.equal(again[2][name], tensor) for name, tensor in whole[2].items())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_goes_on_under_another_zero_stage(tmp_path, alone):
    pytest.importorskip("deepspeed")
    stages = (None, 0, 1, 2, 3)
    for stage in stages:
        (tmp_path / str(stage)).mkdir()
    run_ranks(
        4, on_rank, 2, [{"stop_at": 2, "stage": s, "folder": str(tmp_path / str(s))} for s in stages], timeout=400
    )
    expected = (alone[4][0][2:], alone[4][1], alone[4][2])
    pairs = [(before, after) for before in stages for after in stages]
    options = [{"stage": after, "start": str(tmp_path / str(before))} for before, after in pairs]
    for found in run_ranks(2, on_rank, 2, options, timeout=400):
        for pair, each in zip(pairs, found, strict=True):
            assert difference(each, expected) < TOLERANCE, pair
