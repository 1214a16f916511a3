"""One pass with the answer given tells what greedy decoding writes, on any number of ranks."""

import numpy as np
import pytest
import torch
from ranks import run_ranks
from tiny_folders import random_model, recall_model
from transformers import AutoModelForCausalLM

from ringattn.attention import SequenceParallel
from ringattn.data.sequence import Sequence as TokenSequence
from ringattn.evaluation.greedy import decode
from ringattn.evaluation.passkey import passkey_cases
from ringattn.evaluation.recall import recall_cases
from ringattn.evaluation.samples import Case, Sample
from ringattn.evaluation.scoring import score_cases
from ringattn.evaluation.text import Pieces
from ringattn.models.load import load_model
from ringattn.models.parallelize import parallelize
from ringattn.training.loss import IGNORE
from ringattn.training.reader import SequenceReader

NEW = 12
NOTHING = np.zeros(0, dtype=np.int64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def generated(folder):
    """Three prompts of other lengths, and what plain transformers writes behind them with its cache."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    prompts = [np.random.default_rng(seed).integers(1, 400, 90 + seed) for seed in range(3)]
    written = [
        model.generate(torch.from_numpy(p)[None], max_new_tokens=NEW, do_sample=False, eos_token_id=-1)[0].numpy()
        for p in prompts
    ]
    assert all(len(w) == len(p) + NEW for w, p in zip(written, prompts))
    return [(len(prompt), whole) for prompt, whole in zip(prompts, written)]


def reader_of(folder, *, chunk=7):
    sp = SequenceParallel(schedule="tokenring", layout="zigzag")
    return SequenceReader(parallelize(load_model(folder), sp).eval(), sp, device=torch.device("cpu"), chunk=chunk)


def predicted(rank, folder, tokens, targets):
    return [found.numpy() for found in reader_of(folder).predictions(TokenSequence(inputs=tokens, targets=targets))]


def test_predictions_are_the_plain_model_s_on_every_rank(folder):
    tokens = np.random.default_rng(0).integers(0, 400, (3, 101))
    targets = np.full_like(tokens, IGNORE)
    for row, column in [(0, 99), (1, 0), (1, 50), (1, 51), (2, 70)]:
        targets[row, column] = tokens[row, column + 1]
    logits = AutoModelForCausalLM.from_pretrained(folder)(torch.from_numpy(tokens)).logits
    losses = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), torch.from_numpy(targets), reduction="none", ignore_index=IGNORE
    )
    best = np.where(targets == IGNORE, IGNORE, logits.argmax(-1).numpy())
    for found, lost in run_ranks(2, predicted, folder, tokens, targets, threads=True):
        assert np.array_equal(found, best)
        np.testing.assert_allclose(lost, losses.detach().numpy(), atol=2e-5)


def decoded(rank, folder, tokens, spans):
    return decode(reader_of(folder), tokens, spans)


@pytest.mark.parametrize("guess", ["nothing", "right", "half"])
def test_decoding_writes_what_generation_with_a_cache_writes(folder, generated, guess):
    tokens = np.zeros((len(generated), 120), dtype=np.int64)
    spans = [(prompt, prompt + NEW) for prompt, _ in generated]
    for row, (prompt, whole) in enumerate(generated):
        tokens[row, :prompt] = whole[:prompt]
        known = {"nothing": 0, "right": NEW, "half": NEW // 2}[guess]
        tokens[row, prompt : prompt + known] = whole[prompt : prompt + known]
    for found in run_ranks(2, decoded, folder, tokens, spans, threads=True):
        for row, (_, stop) in enumerate(spans):
            assert np.array_equal(found[row, :stop], generated[row][1])


def scored(rank, folder, cases, greedy=False, samples=1):
    return score_cases(
        reader_of(folder),
        cases,
        samples=samples,
        batch_tokens=300,
        greedy=greedy,
        text=lambda tokens: " ".join(map(str, tokens)),
        say=lambda line: None,
    )


def made(tokens, answers, prompt):
    return lambda number: Sample(tokens, answers, prompt)


def test_an_answer_is_right_exactly_if_generation_writes_it(folder, generated):
    cases = []
    for prompt, whole in generated:
        for wrong in (None, prompt, prompt + NEW - 1):
            tokens = whole.copy()
            if wrong is not None:
                tokens[wrong] = (tokens[wrong] + 1) % 400
            make = made(tokens, ((prompt, prompt + NEW),), prompt)
            cases.append(Case(task="passkey", name=f"{prompt} {wrong}", length=len(tokens), make=make))
    scores = scored(0, folder, cases)
    assert [score.score for score in scores] == [1.0, 0.0, 0.0] * 3
    assert scores[0].written == scores[0].expected and scores[1].written != scores[1].expected


def test_of_several_answers_the_right_ones_count(folder, generated):
    prompt, whole = generated[0]
    tokens, thirds = whole.copy(), [(prompt + 4 * part, prompt + 4 * part + 4) for part in range(3)]
    tokens[prompt + 11] = (tokens[prompt + 11] + 1) % 400
    cases = [Case(task="ruler", name="x", length=len(tokens), make=made(tokens, tuple(thirds), prompt))]
    assert scored(0, folder, cases)[0].score == pytest.approx(2 / 3)
    swapped = whole.copy()
    swapped[prompt : prompt + 8] = np.roll(whole[prompt : prompt + 8], 4)
    cases = [Case(task="ruler", name="x", length=len(tokens), make=made(swapped, tuple(thirds), prompt))]
    assert scored(0, folder, cases, greedy=True)[0].score == 1.0, "decoded, the order does not matter"
    assert scored(0, folder, cases)[0].score < 1.0, "given the earlier ones, it does"


def test_an_induction_head_recalls_all_and_a_random_model_nothing(tmp_path, folder):
    cases = recall_cases([128, 200], [4, 12], vocabulary=48, special=(), power=1.0, seed=0, start=NOTHING)
    able = recall_model(tmp_path / "able")
    for scores in run_ranks(2, scored, able, cases, False, 3, threads=True):
        assert [(score.score, score.standard_error, score.samples) for score in scores] == [(1.0, 0.0, 3)] * 4
    assert max(score.score for score in scored(0, folder, cases, samples=3)) < 0.2


def test_a_random_model_finds_no_passkey(folder):
    cases = passkey_cases(Pieces(folder), [400], depths=2, seed=0)
    scores = scored(0, folder, cases, samples=2)
    assert [score.score for score in scores] == [0.0, 0.0] and all(score.loss > 3 for score in scores)
