"""New and loaded models: sizes, seeds, safetensors only."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from ringattn.models.load import load_model, new_hybrid, new_llama
from ringattn.planner.architecture import Architecture
from ringattn.settings.hybrid import HybridSettings

SIZES = Architecture(
    vocabulary=300,
    hidden_size=16,
    intermediate_size=24,
    layers=2,
    heads=4,
    key_value_heads=2,
    head_dim=8,
    max_positions=64,
    rope_theta=5000.0,
)


def test_a_new_hybrid_has_its_layers_and_depends_on_the_seed_alone():
    sizes = replace(SIZES, layers=2, attention_bias=True, local_start=0.5)
    hybrid = HybridSettings(mixer="hgrn2", pattern="1:1", linear_heads=2, linear_key_dim=4, linear_value_dim=4)
    first, again, other = (new_hybrid(sizes, hybrid, seed=seed) for seed in (1, 1, 2))
    assert first.config.layer_types == ["linear_attention", "full_attention"]
    assert first.model.layers[1].self_attn.q_proj.bias.min().item() == 0.5
    own, same, others = (model.state_dict() for model in (first, again, other))
    assert all(torch.equal(own[name], same[name]) for name in own)
    assert not torch.equal(own["lm_head.weight"], others["lm_head.weight"])


def test_a_new_model_has_the_sizes_and_depends_on_the_seed_alone():
    first, again, other = (new_llama(SIZES, seed=seed) for seed in (1, 1, 2))
    assert sum(p.numel() for p in first.parameters()) == SIZES.parameters()
    assert first.config.rope_parameters["rope_theta"] == 5000.0
    for a, b in zip(first.parameters(), again.parameters()):
        assert torch.equal(a, b)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_a_local_start_makes_attention_fall_off_with_distance():
    sizes = replace(SIZES, attention_bias=True, local_start=1.0, head_dim=32)
    model = new_llama(sizes, seed=1)
    assert sum(p.numel() for p in model.parameters()) == sizes.parameters()
    model.set_attn_implementation("eager")
    ids = torch.arange(60)[None]
    with torch.no_grad():
        weights = model(input_ids=ids, output_attentions=True).attentions[0][0].mean(dim=0)
    last = weights[-1]
    assert last[-1] == last.max() and last[-8:].sum() > 0.3
    plain = new_llama(replace(sizes, local_start=0.0), seed=1)
    plain.set_attn_implementation("eager")
    with torch.no_grad():
        last = plain(input_ids=ids, output_attentions=True).attentions[0][0].mean(dim=0)[-1]
    assert last[-8:].sum() < 0.2, "8 of 60 tokens, without a local start"


def test_a_model_comes_back_from_safetensors_in_fp32(tmp_path):
    model = new_llama(SIZES, seed=1)
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight.float())


def test_a_folder_without_safetensors_is_refused(tmp_path):
    new_llama(SIZES, seed=1).config.save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ValueError, match=r"weights are read as safetensors, but .* has none: save them again"):
        load_model(tmp_path)
    with pytest.raises(ValueError, match="must be a Hugging Face checkpoint folder"):
        load_model(tmp_path / "none")


def test_a_folder_that_lacks_weights_or_is_broken_is_refused(tmp_path):
    model = new_llama(SIZES, seed=1)
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    save_file({k: v for k, v in weights.items() if "layers.1.mlp" not in k}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"3 of .* are missing .* model\.layers\.1\.mlp\.down_proj"):
        load_model(tmp_path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"a safetensors file in .* is broken"):
        load_model(tmp_path)


def test_code_of_a_folders_own_is_never_run(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Mine"}})
    )
    (tmp_path / "mine.py").write_text("raise SystemExit('ran')")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="models that need code of their own are not run"):
        load_model(tmp_path)


def test_quantized_weights_are_refused(tmp_path):
    model = new_llama(SIZES, seed=1)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"quantization_config": {"quant_method": "awq"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"those of .* are quantized \(awq\)"):
        load_model(tmp_path)


def test_threads_that_load_at_once_leave_transformers_as_it_was(tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=16, tie_word_embeddings=True, **sizes)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    with ThreadPoolExecutor(4) as threads:
        loaded = list(threads.map(lambda _: load_model(tmp_path), range(8)))
    made = LlamaForCausalLM(config)
    for model in (*loaded, made):
        assert not any(parameter.is_meta for parameter in model.parameters())
        assert model.lm_head.weight is model.model.embed_tokens.weight
