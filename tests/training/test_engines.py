"""Every mesh, accumulation and engine trains as one process does, with targets that differ from sequence to sequence."""

import pytest
import torch
from engine_runs import difference, on_rank, run
from ranks import run_ranks

TOLERANCE = 1e-5  # fp32, five AdamW steps


@pytest.fixture(scope="module")
def alone():
    torch.set_num_threads(1)
    return {n: run(1, sequences=n) for n in (4, 8)}


@pytest.mark.parametrize("degree", [4, 2, 1])
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
