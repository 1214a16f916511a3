"""lm-evaluation-harness's interface over two ranks: what plain transformers gives, computed from its logits."""

import json
import os

import numpy as np
import pytest
import torch
from ranks import run_ranks
from ringattn.launch.evaluate import harness as command
from ringattn.launch.evaluate.settings import read
from test_scoring import folder, reader_of  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer

lm_eval = pytest.importorskip("lm_eval", reason="the harness is an extra")

from lm_eval.api.instance import Instance  # noqa: E402

from ringattn.evaluation.harness import HarnessModel  # noqa: E402

PAIRS = [("The grass is", " green."), ("", "The sky"), ("And God saw the light, that it was", " good: 12 of 345")]


def asked(rank, place, kind, arguments, max_length=64):
    model = HarnessModel(reader_of(place), place, max_length=max_length, batch_tokens=200)
    requests = [Instance(kind, {}, one, number) for number, one in enumerate(arguments)]
    return getattr(model, kind)(requests, disable_tqdm=True)


@pytest.fixture(scope="module")
def plain(folder):  # noqa: F811
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def likelihood(model, context, continuation):
    """By the plain model."""
    logits = model(torch.tensor([context + continuation])).logits[0, len(context) - 1 : -1].log_softmax(-1)
    wanted = torch.tensor(continuation)
    greedy = bool((logits.argmax(-1) == wanted).all())
    return float(logits.gather(1, wanted[:, None]).sum().detach()), greedy


def test_loglikelihoods_are_the_plain_model_s(folder, plain):  # noqa: F811
    model, tokenizer = plain
    best = model.generate(tokenizer("The sun", return_tensors="pt").input_ids, max_new_tokens=2, do_sample=False)
    pairs = [*PAIRS, ("The sun", tokenizer.decode(best[0])[len("The sun") :])]
    wanted = []
    for context, continuation in pairs:
        before, whole = tokenizer.encode(context), tokenizer.encode(context + continuation)
        wanted.append(likelihood(model, before or [0], whole[len(before) :]))
    for found in run_ranks(2, asked, folder, "loglikelihood", pairs, threads=True):
        assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]
        np.testing.assert_allclose([x for x, _ in found], [x for x, _ in wanted], rtol=1e-4)


def test_rolling_likelihoods_predict_each_token_once(folder, plain):  # noqa: F811
    model, tokenizer = plain
    text = "And God saw the light, that it was good: 12 of 345 and 67890 more. The sky is blue."
    tokens = tokenizer.encode(text)
    assert len(tokens) > 20
    wanted = sum(
        likelihood(model, tokens[start - 1 : start] if start else [0], tokens[start : start + 16])[0]
        for start in range(0, len(tokens) - len(tokens) % 16, 16)
    )
    rest = len(tokens) % 16
    if rest:
        wanted += likelihood(model, tokens[len(tokens) - 16 - 1 : len(tokens) - rest], tokens[-rest:])[0]
    for found in run_ranks(2, asked, folder, "loglikelihood_rolling", [(text,)], 16, threads=True):
        assert found == [pytest.approx(wanted, rel=1e-4)]


def test_generation_is_greedy_and_stops(folder, plain):  # noqa: F811
    model, tokenizer = plain
    ids = tokenizer("The grass is", return_tensors="pt").input_ids
    whole = tokenizer.decode(
        model.generate(ids, max_new_tokens=10, do_sample=False, eos_token_id=-1)[0, ids.shape[1] :]
    )
    stop = whole[4:6]
    requests = [
        ("The grass is", {"until": [], "max_gen_toks": 10, "do_sample": False}),
        ("The grass is", {"until": [stop], "max_gen_toks": 10, "temperature": 0.0}),
    ]
    for found in run_ranks(2, asked, folder, "generate_until", requests, threads=True):
        assert found == [whole, whole[: whole.index(stop)]]
    with pytest.raises(ValueError, match="answers are decoded greedily, and a task asks for"):
        asked(0, folder, "generate_until", [("a", {"do_sample": True})])
    with pytest.raises(ValueError, match="256 tokens leaves no room for its question in the model's 64"):
        asked(0, folder, "generate_until", [("a", {"do_sample": False})])


TASK = """
task: sky
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: [" blue", " green"]
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""


def run(rank, words):
    os.environ["LOCAL_RANK"] = str(rank)  # As every launcher sets it.
    config = read(words)
    return command.run(config, reader_of(config.folder))


@pytest.mark.slow
def test_a_task_of_one_s_own_runs(folder, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"question": "The sky is", "answer": 0}, {"question": "The grass is", "answer": 1}] * 2
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "sky.yaml").write_text(TASK.format(data=tmp_path / "data.jsonl"))
    words = [f"model.path={folder}", "tasks=harness", f"harness.include_path={tmp_path}"]
    found = run_ranks(2, run, [*words, "harness.tasks=sky"])
    assert 0 <= found[0]["sky"]["acc"] <= 1 and found[1] == {}
