"""Hybrid models in one process: one token after the other is the whole at once, with a state that does not grow."""

import pytest
import torch
from tiny_hybrids import make_hybrid
from tiny_models import WINDOW, assert_same_step, gradients_of, make_tokens, plain_step
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from ringattn.layers.linear.mixers import MIXERS
from ringattn.models.hybrid import HybridConfig, HybridForCausalLM
from ringattn.models.load import load_model

PACKED = (0, 1, 8, 8, 20)
TOKENS = make_tokens(2, 20)


def usual(mixer: str = "gated_deltanet", **changes):
    model = make_hybrid(mixer, **changes)
    model.set_attn_implementation("sdpa")
    return model.eval()


@pytest.mark.parametrize("mixer", MIXERS)
def test_tokens_one_by_one_are_the_text_at_once(mixer):
    model = usual(mixer)
    whole = model(input_ids=TOKENS, use_cache=False).logits
    outputs = model(input_ids=TOKENS[:, :7])
    cache, logits = outputs.past_key_values, [outputs.logits]
    size = cache.layers[0].state.bytes
    for t in range(7, 20):
        logits.append(model(input_ids=TOKENS[:, t : t + 1], past_key_values=cache).logits)
    torch.testing.assert_close(torch.cat(logits, dim=1), whole, rtol=1e-9, atol=1e-9)
    assert cache.layers[0].state.bytes == size
    assert cache.layers[1].keys.shape[2] == WINDOW - 1


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_generate_with_and_without_a_cache_and_behind_padding(attention):
    model = usual()
    model.set_attn_implementation(attention)
    ask = {"max_new_tokens": 6, "do_sample": False}
    found = model.generate(TOKENS, **ask)
    assert torch.equal(found, model.generate(TOKENS, use_cache=False, **ask))
    padded = torch.nn.functional.pad(TOKENS, (3, 0))
    mask = torch.nn.functional.pad(torch.ones_like(TOKENS), (3, 0))
    assert torch.equal(model.generate(padded, attention_mask=mask, **ask)[:, 3:], found)
    assert model.generate(TOKENS, num_beams=3, **ask).shape == found.shape


@pytest.mark.parametrize("pattern", ["pure", "full", None], ids=["pure", "full", "mixed"])
def test_packed_documents_are_read_one_by_one(pattern):
    model = make_hybrid(pattern=pattern)
    expected = plain_step(model, TOKENS[:1], TOKENS[:1], PACKED).logits
    model = usual(pattern=pattern)
    torch.testing.assert_close(model(input_ids=TOKENS[:1], documents=PACKED).logits, expected, rtol=1e-9, atol=1e-9)
    starts = torch.tensor([[0, *range(7), *range(12)]])
    by_positions = model(input_ids=TOKENS[:1], position_ids=starts, use_cache=False).logits
    torch.testing.assert_close(by_positions, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("tied", [False, True])
def test_saved_and_loaded(tmp_path, tied):
    model = usual(tie_word_embeddings=tied).float()
    model.save_pretrained(tmp_path)
    for loaded in (AutoModelForCausalLM.from_pretrained(tmp_path), load_model(tmp_path)):
        assert isinstance(loaded, HybridForCausalLM)
        assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) is tied
        own, other = model.state_dict(), loaded.state_dict()
        assert own.keys() == other.keys()
        assert all(torch.equal(own[name], other[name]) for name in own)
    assert AutoConfig.from_pretrained(tmp_path).layer_types == model.config.layer_types


def test_a_checkpoint_of_another_pattern_is_refused(tmp_path):
    usual().float().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"the checkpoint it came with, has the layers \['linear_attention', 'sliding"):
        HybridForCausalLM.from_pretrained(tmp_path, pattern=["linear", "full", "linear", "full"])
    other = HybridConfig.from_pretrained(tmp_path)
    other = HybridConfig(**{**other.to_dict(), "pattern": ["linear", "full", "linear", "full"]})
    with pytest.raises(ValueError, match=r"was made with layer_types \['linear_attention', 'sliding.* was asked for"):
        HybridForCausalLM.from_pretrained(tmp_path, config=other)
    with pytest.raises(ValueError, match="was made with mixer gated_deltanet, and gla was asked for"):
        HybridForCausalLM.from_pretrained(tmp_path, mixer="gla")


def test_checkpointed_layers_learn_the_same():
    model = make_hybrid("hgrn2")
    expected = plain_step(model, TOKENS, TOKENS)
    model = make_hybrid("hgrn2")
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    found = plain_step(model, TOKENS, TOKENS)
    assert_same_step(found, expected, tolerance=1e-9)
    assert "model.lower_bounds" in gradients_of(model)


def test_what_computes_the_linear_layers_is_shown_and_is_not_saved(tmp_path):
    model = usual(linear_kernel="recurrent")
    assert model.linear_kernels(torch.float32)[1:] == [("torch", "serves"), ("recurrent", "chosen")]
    assert make_hybrid(pattern="full").linear_kernels(torch.float32) == []
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.linear_kernels(torch.float32)[1:] == [("torch", "chosen"), ("recurrent", "serves")]


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"unknown mixer 'mamba2'"):
        HybridConfig(mixer="mamba2")
    with pytest.raises(ValueError, match="hybrid models are causal"):
        HybridConfig(is_causal=False)
    with pytest.raises(ValueError, match="head_dim must be even and above 0, got 5"):
        HybridConfig(head_dim=5)
    with pytest.raises(ValueError, match="multiple of num_key_value_heads, got 16 and 3"):
        HybridConfig(num_key_value_heads=3)
    with pytest.raises(ValueError, match="sliding layers need sliding_window"):
        HybridConfig(num_hidden_layers=2, pattern=["sliding", "linear"])
    with pytest.raises(ValueError, match="rope_layers names full and sliding"):
        HybridConfig(rope_layers=["linear"])
    with pytest.raises(ValueError, match="kernel='fla'"):
        HybridConfig(linear_kernel="fla")
    model = usual()
    with pytest.raises(ValueError, match=r"DynamicCache has no place: give none, or a HybridCache"):
        model(input_ids=TOKENS, past_key_values=DynamicCache())
    with pytest.raises(ValueError, match="length is for a parallelized model"):
        model(input_ids=TOKENS, length=20)
    with pytest.raises(ValueError, match="a linear layer's state can't be taken back"):
        model(input_ids=TOKENS).past_key_values.crop(3)
