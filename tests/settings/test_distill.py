"""Teachers in the configuration: each mistake is one sentence, before anything is loaded."""

import dataclasses
import json

import pytest

from ringattn.settings.distill import DistillConfig, check_distill, check_teacher

RUN = {"trained": "model", "adapter": "none", "stage": None, "offloads": False}


@pytest.mark.parametrize(
    ("settings", "run", "message"),
    [
        ({"weight": 1.5}, {}, r"share of the loss, from 0 to 1, got 1\.5: write for example distill\.weight=0\.5"),
        ({"weight": -0.1}, {}, r"from 0 to 1, got -0\.1"),
        ({"weight": float("nan")}, {}, "from 0 to 1, got nan"),
        ({"temperature": 0.0}, {}, r"distill\.temperature must be above 0, got 0\.0"),
        ({"teacher": None, "weight": 0.7}, {}, r"got 0\.7 without one: write distill\.teacher=FOLDER as well"),
        ({"teacher": None, "match": "mixers"}, {}, "got mixers without one"),
        ({}, {"trained": None}, r"got distill\.teacher=t without model\.path"),
        ({"match": "mixers", "temperature": 2.0}, {}, r"no guesses, got distill\.temperature=2\.0: leave it out"),
        ({"match": "mixers"}, {"adapter": "lora"}, "got adapter=lora: leave that out"),
        ({"match": "mixers"}, {"stage": 2}, "got deepspeed: leave that out"),
        ({"match": "mixers"}, {"offloads": True}, "got offloaded activations"),
    ],
)
def test_a_mistake_is_refused(settings, run, message):
    with pytest.raises(ValueError, match=message):
        check_distill(DistillConfig(**{"teacher": "t", **settings}), **{**RUN, **run})


def test_what_serves():
    check_distill(DistillConfig(), **{**RUN, "trained": None, "adapter": "lora", "stage": 3})
    for weight in (0.0, 1.0):
        check_distill(DistillConfig(teacher="t", weight=weight, temperature=2.0), **{**RUN, "stage": 3})
    check_distill(DistillConfig(teacher="t", match="mixers"), **RUN)


LLAMA = {"vocab_size": 9, "hidden_size": 4, "num_hidden_layers": 2, "num_attention_heads": 1, "model_type": "llama"}
HYBRID = LLAMA | {"layer_types": ["linear_attention", "full_attention"]}


def folder(path, config, words=("a", "b")):
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {w: i for i, w in enumerate(words)}}}))
    return path


@pytest.mark.parametrize(
    ("student", "teacher", "words", "message"),
    [
        (
            HYBRID,
            LLAMA | {"vocab_size": 8},
            "ab",
            r"got vocabularies of 8 \(distill\.teacher=.*\) and 9 \(model\.path=",
        ),
        (HYBRID, LLAMA, "ba", "which are not the same: give a teacher with the model's tokenizer"),
        (LLAMA, LLAMA, "ab", "fits the linear layers of a hybrid, and model.path=.* has none"),
        (HYBRID, LLAMA | {"hidden_size": 8}, "ab", "hidden_size is 8 in the teacher and 4 in the model"),
        (HYBRID, HYBRID, "ab", "layer 0 is linear in the teacher as well"),
    ],
)
def test_models_that_do_not_go_together(tmp_path, student, teacher, words, message):
    distill = DistillConfig(teacher="t", match="mixers")
    own, other = folder(tmp_path / "own", student), folder(tmp_path / "other", teacher, words)
    with pytest.raises(ValueError, match=message):
        check_teacher(distill, own, other)
    check_teacher(distill, folder(tmp_path / "hybrid", HYBRID), folder(tmp_path / "llama", LLAMA))
    check_teacher(dataclasses.replace(distill, match="logits"), own, own)


def test_ranks_cut_both_models_sequences_at_the_same_places(tmp_path):
    distill, own = DistillConfig(teacher="t"), folder(tmp_path / "own", LLAMA)
    check_teacher(distill, own, own, landmark_block=63, ranks=1)
    with pytest.raises(ValueError, match="got landmark_block none in the teacher and 63 in the model on 2 ranks"):
        check_teacher(distill, own, own, landmark_block=63, ranks=2)
