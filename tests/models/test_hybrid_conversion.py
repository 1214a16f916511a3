"""A LLaMA made a hybrid: what is kept is kept to the bit, and what is new starts as it is meant to."""

import pytest
import torch
from tiny_models import make_config, make_tokens
from transformers import AutoModelForCausalLM, LlamaForCausalLM, Qwen2ForCausalLM

from ringattn.layers.linear.context import Context
from ringattn.layers.linear.mixers import MIXERS
from ringattn.models.convert import convert, identify
from ringattn.models.hybrid import HybridForCausalLM
from ringattn.models.hybrid.convert import Recipe, to_hybrid
from ringattn.models.hybrid.start import horizons

TOKENS = make_tokens(2, 24)


def source(kind=LlamaForCausalLM, family="llama", **changes):
    torch.manual_seed(1)
    sizes = {"num_hidden_layers": 4, "initializer_range": 0.3}
    return kind(make_config(family, **{**sizes, **changes})).eval()


def logits(model):
    with torch.no_grad():
        return model(TOKENS, use_cache=False).logits


@pytest.mark.parametrize("tied", [False, True])
def test_with_all_layers_full_the_logits_are_the_source_s(tied):
    llama = source(
        tie_word_embeddings=tied,
        attention_bias=True,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 500.0,
            "factor": 4.0,
            "original_max_position_embeddings": 8,
        },
    )
    found = to_hybrid(llama, Recipe(pattern="full"))
    assert found.dropped == () and found.model.lm_head.weight is not llama.lm_head.weight
    torch.testing.assert_close(logits(found.model), logits(llama), rtol=1e-5, atol=1e-5)
    assert (found.model.lm_head.weight is found.model.model.embed_tokens.weight) is tied


def test_biases_of_three_maps_stay_in_full_layers_and_are_named_where_mixers_have_none():
    qwen = source(Qwen2ForCausalLM, "qwen2", use_sliding_window=False, layer_types=None, sliding_window=None)
    with torch.no_grad():
        for name, parameter in qwen.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    torch.testing.assert_close(
        logits(to_hybrid(qwen, Recipe(pattern="full")).model), logits(qwen), rtol=1e-5, atol=1e-5
    )
    found = to_hybrid(qwen)
    assert len(found.dropped) == 9
    assert "9 tensors are left out, the first of them model.layers.0.self_attn.q_proj.bias" in found.describe()


@pytest.mark.parametrize("mixer", MIXERS)
def test_what_is_copied_is_copied_by_value(mixer):
    llama = source()
    found = to_hybrid(llama, Recipe(mixer=mixer)).model
    own, other = found.state_dict(), llama.state_dict()
    assert found.config.layer_types == ["linear_attention"] * 3 + ["full_attention"]
    for name, tensor in other.items():
        if name in own:
            assert torch.equal(own[name], tensor), name
    assert {name for name in other if name not in own} == {
        f"model.layers.{layer}.self_attn.{one}_proj.weight" for layer in range(3) for one in "qkvo"
    }
    value = other["model.layers.1.self_attn.v_proj.weight"].view(2, 1, 8, 32).expand(2, 2, 8, 32).reshape(32, 32)
    place = "i_proj" if mixer.startswith("hgrn") else "v_proj"
    assert torch.equal(own[f"model.layers.1.mixer.{place}.weight"], value)
    for one in "qo":
        if hasattr(found.model.layers[1].mixer, f"{one}_proj"):
            theirs = other[f"model.layers.1.self_attn.{one}_proj.weight"]
            assert torch.equal(own[f"model.layers.1.mixer.{one}_proj.weight"], theirs)
    assert torch.isfinite(logits(found)).all()
    # The same seed makes the same weights, whatever was drawn before, and leaves the generator where it was.
    torch.manual_seed(5)
    again = to_hybrid(llama, Recipe(mixer=mixer)).model.state_dict()
    assert all(torch.equal(own[name], again[name]) for name in own)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))


@pytest.mark.parametrize("mixer", ["gated_deltanet", "gla", "retnet", "lightning", "kda"])
def test_gates_are_open_and_memory_is_long(mixer):
    llama = source(max_position_embeddings=4096)
    made = to_hybrid(llama, Recipe(mixer=mixer)).model.model.layers[0].mixer
    # Twice the token in the gate's place is the same gate: it does not depend on the token.
    gate = getattr(made, "u_proj", None) or getattr(made, "g_proj", None) or made.g_up
    assert (gate.weight == 0).all() and (gate.bias != 0).all()
    if mixer == "gated_deltanet":
        assert torch.nn.functional.silu(gate.bias).sub(1).abs().max() < 1e-6
        decay = made.log_rate.exp() * torch.nn.functional.softplus(made.step_bias)
        torch.testing.assert_close(1 / decay, torch.tensor([64.0, 256.0, 1024.0, 4096.0]), rtol=1e-3, atol=0)
    hidden = torch.randn(1, 8, 32)
    assert (made(hidden, context=Context.alone(8)) != 0).any()
    if mixer == "gla":
        decay = torch.nn.functional.logsigmoid(made.decay_up.bias) / 16
        torch.testing.assert_close(-1 / decay[:8], horizons(8, 4096).float(), rtol=1e-3, atol=0)


def test_written_and_loaded(tmp_path):
    llama = source()
    llama.generation_config.eos_token_id = [2, 7]
    llama.save_pretrained(tmp_path / "llama")
    (tmp_path / "llama" / "tokenizer.json").write_text("{}")
    written = convert(identify(str(tmp_path / "llama")), tmp_path / "out", hybrid=Recipe(mixer="gla"))
    assert written.hybrid == "3 of 4 layers are gla now, 4 heads of 8 and 8 channels"
    assert written.tokenizer == ["tokenizer.json"]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert isinstance(loaded, HybridForCausalLM) and loaded.generation_config.eos_token_id == [2, 7]
    assert torch.equal(logits(loaded), logits(to_hybrid(llama, Recipe(mixer="gla")).model))


def test_what_can_not_be_converted():
    with pytest.raises(ValueError, match="the pattern 7:1 does not fit 4 layers"):
        to_hybrid(source(), Recipe(pattern="7:1"))
    with pytest.raises(ValueError, match="a hybrid already: convert the model that it was made from"):
        to_hybrid(to_hybrid(source()).model)
    qwen3 = AutoModelForCausalLM.from_config(make_config("qwen3"))
    with pytest.raises(ValueError, match=r"LLaMA-like models are converted \(llama, mistral, qwen2\), got .* 'qwen3'"):
        to_hybrid(qwen3)
    mistral = AutoModelForCausalLM.from_config(make_config("mistral"))
    with pytest.raises(ValueError, match="attends over a window of 9 tokens"):
        to_hybrid(mistral)
    with pytest.raises(ValueError, match="without biases, got hidden_act 'silu' and mlp_bias True"):
        to_hybrid(source(mlp_bias=True))
