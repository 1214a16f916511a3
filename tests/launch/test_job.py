"""What a worker says of its device before and when it fails."""

import pytest
import torch
from ringattn.launch.compose import compose
from ringattn.launch.device import check_precision
from ringattn.launch.job import flops_of_peak
from ringattn.launch.memory_hint import out_of_memory

CPU = torch.device("cpu")


def test_memory_that_runs_out_is_said_with_the_estimate_and_what_to_change():
    config = compose(["experiment=demo", "data=text", "data.path=README.md"])
    expected = (
        r"memory ran out .* held .* GiB: \d.* GiB were expected .* of them [a-z]+: write trainer\.[a-z_]+=.*, or "
    )
    with pytest.raises(ValueError, match=expected) as failed, out_of_memory(config, CPU):
        torch.empty(1 << 50)
    assert "deepspeed=zero3" in str(failed.value)
    assert isinstance(failed.value.__cause__, RuntimeError)


def test_other_errors_pass():
    config = compose(["experiment=demo"])
    with pytest.raises(RuntimeError, match="shape"), out_of_memory(config, CPU):
        torch.ones(2).view(3)


def test_a_gpu_without_bf16_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    with pytest.raises(ValueError, match=r"Tesla T4 does not: write trainer\.precision=float32\.$"):
        check_precision("bfloat16", torch.device("cuda", 0))
    assert check_precision("float32", torch.device("cuda", 0)) is None


@pytest.mark.parametrize("supported", [True, False])
def test_a_cpu_without_bf16_arithmetic_is_warned_of(monkeypatch, supported):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    warning = check_precision("bfloat16", CPU)
    assert warning is None if supported else "trainer.precision=float32 is several times faster here" in str(warning)


def test_the_mfu_is_the_model_s_work_over_what_the_data_sheet_says(monkeypatch):
    config = compose(["experiment=demo", "model=llama3_8b", "trainer.sequence_length=8192"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 8)
    share = flops_of_peak(config, torch.device("cuda", 0))
    # 8.03e9 weights without the embedding's 0.53e9; causal attention: 32 layers x 4096 x 4 x 8193 / 2, thrice in all.
    of_token = 6 * (8.03e9 - 0.53e9) + 3 * 32 * 4096 * 4 * 8193 / 2
    assert share == pytest.approx(of_token / (8 * 67e12), rel=0.02)  # fp32 of the data sheet
    assert flops_of_peak(config, CPU) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
    assert flops_of_peak(config, torch.device("cuda", 0)) is None
