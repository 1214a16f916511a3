"""Generation over ranks: every step's logits are those of plain transformers with its cache, and so are the tokens."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from ranks import refusals, run_ranks
from tiny_models import FAMILIES, VOCABULARY, make_model, make_tokens
from torch import Tensor
from transformers import GenerationConfig

import ringattn
from ringattn.models.decode import Decoder
from ringattn.models.generate import choose, generate, stream
from ringattn.settings.sampling import check_sampling

PROMPT, NEW = 21, 14  # Beyond the tiny models' window of 9, in the prompt and in what follows.


def continued(rank: int, models: list[Any], tokens: Tensor, schedule: str, layout: str) -> tuple[Tensor, int, int]:
    """Logits after the prompt and after each further token [B, 1 + n, vocabulary], bytes and tokens kept here."""
    sp = ringattn.SequenceParallel(schedule=schedule, layout=layout)
    decoder = Decoder(ringattn.parallelize(models[rank], sp), reserve=NEW)
    steps = [decoder.read(tokens[:, : tokens.shape[1] - NEW])]
    steps += [decoder.step(token) for token in tokens[:, -NEW:].T]
    return torch.stack(steps, dim=1), decoder.cache.bytes, decoder.cache.tokens(1)


def plain_logits(model: Any, tokens: Tensor) -> Tensor:
    """What transformers computes token by token with a cache of its own."""
    model.set_attn_implementation("eager")
    prompt = tokens.shape[1] - NEW
    with torch.no_grad():
        out = model(tokens[:, :prompt], use_cache=True)
        steps = [out.logits[:, -1]]
        for place in range(prompt, tokens.shape[1]):
            out = model(tokens[:, place : place + 1], past_key_values=out.past_key_values, use_cache=True)
            steps.append(out.logits[:, -1])
    return torch.stack(steps, dim=1)


def check(family: str, world: int, *, prompt: int = PROMPT, batch: int = 1, schedule: str = "tokenring",
          layout: str = "zigzag", **changes: Any) -> list[tuple[Tensor, int, int]]:  # fmt: skip
    model, tokens = make_model(family, **changes).eval(), make_tokens(batch, prompt + NEW)
    models = [copy.deepcopy(model) for _ in range(world)]
    found = run_ranks(world, continued, models, tokens, schedule, layout, threads=True)
    expected = plain_logits(model, tokens)
    for logits, _, _ in found:
        torch.testing.assert_close(logits, expected, rtol=_TOLERANCE[family], atol=_TOLERANCE[family])
        assert torch.equal(logits, found[0][0]), "the same bits on every rank"
    return found


# transformers' eager attention takes its softmax in fp32 everywhere, and so does gpt-oss's.
_TOLERANCE = dict.fromkeys(FAMILIES, 1e-5)


@pytest.mark.parametrize(
    ("family", "world"), [*((family, 2) for family in FAMILIES), ("llama", 1), ("llama", 3), ("gemma2", 3)]
)
def test_each_step_is_transformers_own_with_its_cache(family: str, world: int) -> None:
    check(family, world)


def exact(rank: int, models: list[Any], tokens: Tensor) -> Tensor:
    return continued(rank, models, tokens, "ring", "zigzag")[0]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_step_is_a_whole_forward_to_1e9(family: str, world: int) -> None:
    """Against the reference attention in fp64, which has no cache: every prefix is read anew."""
    model, tokens = make_model(family).eval(), make_tokens(2, PROMPT + NEW)
    models = [copy.deepcopy(model) for _ in range(world)]
    found = run_ranks(world, exact, models, tokens, threads=True)
    with torch.no_grad():
        expected = model(tokens, use_cache=False).logits[:, PROMPT - 1 :]
    for logits in found:
        torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prompt", [1, 2, 5])
def test_a_prompt_shorter_than_the_ranks(prompt: int) -> None:
    check("gemma2", 3, prompt=prompt)


@pytest.mark.parametrize(
    ("schedule", "layout"), [("ring", "striped"), ("ulysses", "contiguous"), ("allgather", "balanced")]
)
def test_any_schedule_and_layout_reads_the_prompt(schedule: str, layout: str) -> None:
    check("qwen3", 2, schedule=schedule, layout=layout, batch=3)


@pytest.mark.parametrize("kind", ["dynamic", "yarn"])
def test_positions_that_are_scaled(kind: str) -> None:
    rope = {"rope_type": kind, "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 16}
    check("llama", 2, rope_parameters=rope, max_position_embeddings=16)


def test_each_rank_holds_its_share_of_the_cache() -> None:
    token = 2 * 2 * 2 * 8 * 8  # Bytes: 2 layers x key and value x 2 heads of 8 in fp64.
    prompt = 60 - NEW
    assert [held for _, held, _ in check("llama", 1, prompt=prompt)] == [60 * token]
    for _, held, tokens in check("llama", 2, prompt=prompt):
        assert held == tokens * token == 30 * token
    for _, held, _ in check("llama", 3, prompt=prompt):
        assert held <= (60 / 3 + 2) * token


def test_a_windowed_layer_keeps_what_its_window_holds() -> None:
    token = 2 * 2 * 2 * 8 * 8
    # The window of 9 sees 8 tokens of the prompt; the 14 that follow go round in slots for 9 more.
    assert [held for _, held, _ in check("mistral", 1, prompt=60 - NEW)] == [17 * token]
    assert sum(held for _, held, _ in check("mistral", 2, prompt=60 - NEW)) <= (8 + NEW) * token


def greedy(rank: int, models: list[Any], tokens: Tensor, stop: tuple[int, ...]) -> Tensor:
    sp = ringattn.SequenceParallel()
    return generate(ringattn.parallelize(models[rank], sp), tokens, max_new_tokens=NEW, stop=stop)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_greedy_tokens_are_those_of_transformers_generate(world: int) -> None:
    model, tokens = make_model("llama").eval(), make_tokens(1, PROMPT)
    model.set_attn_implementation("eager")
    settings = GenerationConfig(max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0)
    expected = model.generate(tokens, generation_config=settings)
    models = [copy.deepcopy(model) for _ in range(world)]
    for found in run_ranks(world, greedy, models, tokens, (), threads=True):
        assert torch.equal(found, expected)
    end = int(expected[0, PROMPT + 3])
    until = expected[0, PROMPT:].tolist().index(end) + PROMPT + 1
    models = [copy.deepcopy(model) for _ in range(world)]
    for found in run_ranks(world, greedy, models, tokens, (end,), threads=True):
        assert torch.equal(found, expected[:, :until])


def test_a_seed_gives_the_same_tokens_and_the_model_stays_in_training() -> None:
    model = ringattn.parallelize(make_model("llama"), ringattn.SequenceParallel())
    one, again, other = (
        generate(model, make_tokens(1, 5), max_new_tokens=20, temperature=2.0, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert model.training


def test_a_nucleus_is_the_likeliest_tokens() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    random = torch.Generator().manual_seed(0)
    drawn = {int(choose(logits, temperature=1.0, top_p=0.75, random=random)) for _ in range(200)}
    assert drawn == {0, 1}
    assert {int(choose(logits, temperature=1.0, top_p=0.1, random=random)) for _ in range(20)} == {0}
    counts = torch.zeros(4)
    for _ in range(2000):
        counts[choose(logits, temperature=1.0, top_p=1.0, random=random)] += 1
    torch.testing.assert_close(counts / 2000, logits.exp()[0], atol=0.05, rtol=0)


def tuned(rank: int, models: list[Any], tokens: Tensor) -> Tensor:
    return generate(ringattn.parallelize(models[rank], ringattn.SequenceParallel()), tokens, max_new_tokens=NEW)


def test_a_peft_model_generates_too() -> None:
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    model = peft.get_peft_model(make_model("llama"), settings).double().eval()
    tokens = make_tokens(1, PROMPT)
    expected = tokens
    with torch.no_grad():
        for _ in range(NEW):
            following = model(input_ids=expected, use_cache=False).logits[:, -1].argmax(-1)
            expected = torch.cat((expected, following[:, None]), dim=1)
    for found in run_ranks(2, tuned, [copy.deepcopy(model) for _ in range(2)], tokens, threads=True):
        assert torch.equal(found, expected)


def another_prompt(rank: int, models: list[Any]) -> None:
    decoder = Decoder(ringattn.parallelize(models[rank], ringattn.SequenceParallel()))
    decoder.read(make_tokens(1, 1, seed=rank))


def test_ranks_with_other_prompts_say_so() -> None:
    for said in refusals(2, another_prompt, [make_model("llama") for _ in range(2)], threads=True):
        assert "the prompt, which every rank gets whole and alike, differs (rank 0: int64 [1, 1]" in said


def test_text_beyond_the_models_positions_is_warned_of() -> None:
    model = ringattn.parallelize(make_model("llama", max_position_embeddings=6), ringattn.SequenceParallel())
    with pytest.warns(UserWarning, match=r"7 positions is longer than .* of 6, .* model\.rope_scaling=yarn:12"):
        generate(model, make_tokens(1, 5), max_new_tokens=4)


def cached(rank: int, models: list[Any]) -> None:
    ringattn.parallelize(models[rank], ringattn.SequenceParallel())(make_tokens(1, 9), use_cache=True)


def test_a_cache_of_transformers_stays_refused() -> None:
    for said in refusals(2, cached, [make_model("llama") for _ in range(2)], threads=True):
        assert "keeps no key and value cache, but was called with use_cache=True" in said
        assert "generate with ringattn.generate" in said


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="takes a parallelized model, got LlamaForCausalLM"):
        Decoder(make_model("llama"))
    model = ringattn.parallelize(make_model("llama"), ringattn.SequenceParallel())
    with pytest.raises(
        ValueError, match=r"a prompt is \[batch, tokens\] with a token at least, got the shape \(1, 0\)"
    ):
        next(stream(Decoder(model), torch.zeros((1, 0), dtype=torch.int64), max_new_tokens=1))
    for given, message in (
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"temperature": -1.0}, "temperature must be 0 .* got -1"),
        ({"top_p": 0.0}, "top_p is a probability above 0 and at most 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            check_sampling(**{"max_new_tokens": 1, "temperature": 0.0, "top_p": 1.0, **given})
    assert int(make_tokens(1, 50).max()) < VOCABULARY
