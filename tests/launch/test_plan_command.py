"""`ringattn plan`, as it is typed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ringattn.launch.cli import main
from ringattn.launch.plan import length_of, model_names, states_of

from ringattn.models.hybrid import HybridConfig
from ringattn.schedule.states import StateSizes, Transition

# A world so small that a plan takes a second.
SMALL = ["cluster=h100_8x", "model=llama3_1b", "length=32k"]


def run(*words, capsys):
    code = main(["plan", *words])
    return code, capsys.readouterr()


def test_a_plan_says_what_to_set_and_why(capsys):
    code, printed = run(*SMALL, capsys=capsys)
    assert code == 0
    out = printed.out
    assert out.startswith("llama3_1b at 32,768 tokens on h100_8x: 8 x NVIDIA H100 SXM5 80 GB, bfloat16, causal")
    for words in ("mesh.sequence_parallel=", "schedule.layout=", "forward, ", "backward, ", "MFU", "attention buffers"):
        assert words in out
    assert max(len(line) for line in out.splitlines() if not line.startswith(" ") and "|" not in line) < 200


def test_the_same_as_json(capsys):
    code, printed = run(*SMALL, "json=true", capsys=capsys)
    found = json.loads(printed.out)
    assert code == 0 and found["ranks"] == 8
    best = found["plans"][0]
    assert {"forward", "backward", "memory_bytes", "step_seconds", "mfu", "reasons"} <= set(best)
    assert best["memory_bytes"]["total"] == sum(v for k, v in best["memory_bytes"].items() if k != "total")


def test_a_hybrid_has_a_route_beside_its_schedules(capsys, tmp_path):
    words = ["cluster=h100_8x", "length=32k", "sequence_parallel=8"]
    _, printed = run(*words, "model=hybrid_340m", capsys=capsys)
    for part in (
        "Layers: 21 linear (gated_deltanet, 3 heads of 256 and 512 channels), 3 full",
        "  model.hybrid.state_route=",
        "One layer's attention (played by the simulator):",
        "One gated_deltanet layer's states: 3 heads of 256 x 512 in 32 bits",
        "A convolution's halo, 3 tokens before each chunk, takes ",
        "\nlinear attention  ",
        "\nstates  ",
    ):
        assert part in printed.out
    # A folder's layers are its own; without attention there is no schedule to choose.
    HybridConfig(mixer="retnet", pattern="pure", num_hidden_layers=2).save_pretrained(tmp_path)
    _, printed = run(*words, f"model={tmp_path}", capsys=capsys)
    assert "Layers: 2 linear (retnet, 4 heads of 256 and 512 channels)\n" in printed.out
    assert "  state_route=" in printed.out and " (in config.json)" in printed.out
    assert "schedule=" not in printed.out and "halo" not in printed.out
    _, printed = run(*words, f"model={tmp_path}", "json=true", capsys=capsys)
    made = json.loads(printed.out)["plans"][0]
    assert made["layers"] == ["linear", "linear"] and made["states"]["route"] == made["states"]["routes"][0]["route"]


def test_linear_layers_of_another_kind_are_refused(capsys, tmp_path):
    values = {"model_type": "qwen3_next", "layer_types": ["linear_attention", "full_attention"]}
    (tmp_path / "config.json").write_text(json.dumps(values))
    code, printed = run("cluster=h100_8x", f"model={tmp_path}", capsys=capsys)
    assert code == 2 and "1 layers of" in printed.err and "another kind (model_type qwen3_next)" in printed.err


def test_a_mixer_asks_for_the_route_of_its_states_too(capsys):
    code, printed = run(*SMALL, "mixer=gla", "sequence_parallel=8", "json=true", capsys=capsys)
    found = json.loads(printed.out)["states"]
    # GLA at a width of 2,048: four heads of 256 x 512 in fp32, whose decay is a number a row.
    assert code == 0 and found["state"] == {
        "batch": 1, "heads": 4, "key_dim": 256, "value_dim": 512, "transition": "diagonal", "item_bytes": 4,
    }  # fmt: skip
    assert {"allgather", "ring", "pipeline:slices=2"} <= {route["route"] for route in found["routes"]}
    # The channels of HGRN are heads of one number.
    assert states_of("hgrn", 64) == StateSizes(1, 64, 1, 1, Transition.SCALAR)


def test_one_rank_a_sequence_has_nothing_to_send(capsys):
    code, printed = run(*SMALL, "mixer=retnet", "sequence_parallel=1", capsys=capsys)
    assert code == 0 and printed.out.endswith("One rank holds a sequence: nothing travels.\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*SMALL, "mixer=glu"], "unknown mixer 'glu' (did you mean 'gla'?)"),
        (["clster=h100_8x"], "there is no setting clster. Did you mean 'cluster'?"),
        (["h100_8x"], "a setting is written key=value, got 'h100_8x'"),
        (["cluster=h10_8x"], "there is no cluster 'h10_8x' (did you mean 'h100_8x'?)"),
        (["model=lama3_8b"], "there is no model 'lama3_8b'. Did you mean 'llama3_8b'?"),
        (["length=12q"], "length must be a number of tokens from 1 on, got '12q'"),
        (["zero=4"], "zero is a stage from 0 to 3, got 4"),
        (["model=hybrid_340m", "layout=striped"], "layout 'striped' deals tokens out to the ranks one by one"),
        (["model=hybrid_340m", "window=512"], "its sliding ones have a window of their own, got causal, window 512"),
        (
            ["cluster=h100_8x", "nodes=32", "model=hybrid_340m", "length=1M", "sequence_parallel=256"],
            "routes of states are played for up to 128 ranks that share a sequence, got 256",
        ),
        (["nodes=0"], "nodes must be at least 1, got 0"),
        (["layout=zig-zag"], "unknown layout 'zig-zag' (did you mean 'zigzag'?)"),
        (["dtype=float8"], "dtype must be one of"),
        ([*SMALL, "batch=1", "length=4"], "there are more ranks than tokens: 8 ranks for sequences of 4 tokens"),
        (["cluster=h100_8x", "model=llama3_70b", "length=1M"], "the model does not fit under any plan"),
    ],
)
def test_mistakes(words, message, capsys):
    code, printed = run(*words, capsys=capsys)
    assert code == 2 and message in printed.err and printed.out == ""


@pytest.mark.parametrize(("text", "tokens"), [("131072", 131072), ("128k", 131072), ("1M", 2**20), ("1_000", 1000)])
def test_lengths(text, tokens):
    assert length_of(text) == tokens


def test_help_lists_clusters_and_models_and_imports_no_torch():
    code = (
        "import sys; from ringattn.launch.cli import main; main(['plan', '--help']); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "h100_8x" in done.stdout and "llama3_8b" in done.stdout
    assert "llama3_8b" in model_names()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_thousand_gpus_and_ten_million_tokens_within_a_minute():
    code = (
        "import time, sys; from ringattn.launch.cli import main;"
        "code = main(['plan', 'cluster=h100_8x', 'nodes=128', 'model=llama3_8b', 'length=10M']);"
        "assert code == 0 and 'torch' not in sys.modules; assert time.process_time() < 60, time.process_time()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_the_documented_example_is_what_is_printed(capsys):
    page = (Path(__file__).resolve().parents[2] / "docs" / "plan.md").read_text(encoding="utf-8")
    shown = page.split("```console\n$ ringattn plan ", 1)[1].split("```", 1)[0]
    words, expected = shown.split("\n", 1)
    _, printed = run(*words.split(), capsys=capsys)
    assert printed.out == expected, "paste the output anew into docs/plan.md"
