"""The rules of a run that no single setting's type can state, and the frozen file."""

import pytest
import yaml

from ringattn.settings.parallel import mesh_shape
from ringattn.settings.run import digest, from_mapping, load, to_yaml

SIZES = {
    "vocabulary": 300,
    "hidden_size": 16,
    "intermediate_size": 32,
    "layers": 1,
    "heads": 2,
    "key_value_heads": 1,
    "head_dim": 8,
    "max_positions": 64,
}


def mapping(**changes):
    values = {
        "model": {"architecture": dict(SIZES)},
        "data": {"source": "kjv"},
        "run": {"folder": "somewhere"},
    }
    for dotted, value in changes.items():
        *groups, name = dotted.split("__")
        place = values
        for group in groups:
            place = place.setdefault(group, {})
        place[name] = value
    return values


def test_the_frozen_text_gives_the_same_configuration_and_digest(tmp_path):
    config = from_mapping(mapping(trainer__steps=7))
    text = to_yaml(config)
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    assert load(path) == (config, digest(text))
    assert from_mapping(yaml.safe_load(text)) == config
    assert digest(text) != digest(to_yaml(from_mapping(mapping(trainer__steps=8))))


def test_a_worker_that_sees_no_run_folder_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"put run\.folder on a file system that every host sees"):
        load(tmp_path / "config.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model__hybrid__pattern": "pure", "schedule__layout": "striped"},
            "got schedule.layout=striped for a hybrid model: write schedule.layout=zigzag",
        ),
        ({"model__path": "a"}, "either model.path .* or model.architecture .*, got both"),
        (
            {"data__path": "a.txt"},
            "data.path goes with data.source=file, got data.source=kjv and data.path=a.txt",
        ),
        ({"data__source": "file"}, "data.path goes with data.source=file"),
        (
            {"data__held_out": 0.1, "data__held_out_path": "a.txt"},
            "either a fraction of the text or a text of its own, got data.held_out=0.1 and data.held_out_path=a.txt",
        ),
        ({"data__overlap": 8}, "data.packing=stream joins documents, got data.overlap=8: write data.packing=documents"),
        (
            {"data__overlap": 64, "data__packing": "single", "trainer__sequence_length": 64},
            "data.overlap must be below trainer.sequence_length=64, got 64: write for example data.overlap=8",
        ),
        ({"data__packing": "singel"}, "data.packing must be one of stream, documents, single, got 'singel'. Did you"),
        ({"trainer__steps": 0}, "trainer.steps must be above 0, got 0: write for example trainer.steps=1"),
        ({"trainer__sequence_length": -1}, "trainer.sequence_length must be above 0, got -1"),
        ({"optimizer__clip": float("nan")}, "optimizer.clip must be above 0, got nan"),
        ({"trainer__seed": -1}, "trainer.seed must be 0 or more, got -1"),
        ({"data__held_out": 1.0}, "data.held_out is a fraction from 0 to below 1, got 1.0"),
        ({"data__held_out": 0.0}, "must be above 0, got 0.0: write data.held_out=0.05"),
        ({"launcher__processes": 0}, "launcher.processes must be above 0, got 0"),
        (
            {"model__architecture__key_value_heads": 3},
            "heads must be a multiple of key_value_heads, got 2 and 3",
        ),
        ({"model__architecture__local_start": 0.5}, "local_start needs attention_bias, got local_start=0.5 without"),
        ({"model__architecture__head_dim": 7}, "head_dim must be even, got 7"),
        ({"model__architecture__vocabulary": 256}, "256 bytes, the end-of-text token and merges, got 256"),
        ({"model__rope_scaling": "yarn"}, "raise model.architecture.max_positions instead"),
        ({"model__rope_scaling": "yarm"}, "got 'yarm'. Did you mean 'yarn'"),
    ],
)
def test_a_rule_that_is_broken_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        from_mapping(mapping(**changes))


def test_kernels_for_gpus_in_a_run_on_cpus(monkeypatch):
    monkeypatch.setattr("ringattn.settings.hybrid.find_spec", lambda name: name)
    fla = {"model__hybrid__kernel": "fla", "model__hybrid__pattern": "pure"}
    assert from_mapping(mapping(**fla)).model.hybrid.kernel == "fla"
    with pytest.raises(ValueError, match=r"run on GPUs, got model\.hybrid\.kernel=fla and launcher\.device=cpu"):
        from_mapping(mapping(**fla, launcher__device="cpu"))


def test_mesh_shapes():
    assert mesh_shape(8, None) == (1, 8)
    assert mesh_shape(8, 2) == (4, 2)
    with pytest.raises(ValueError, match=r"got 6 ranks and a degree of 4: choose a degree from \[1, 2, 3, 6\]"):
        mesh_shape(6, 4)
