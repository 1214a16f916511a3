"""Adapters: what is trained, and that the merged model is the adapted one."""

import pytest
import torch
from ranks import run_ranks
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import ringattn
from ringattn.models.adapter import adapt, is_adapted, merged_weights
from ringattn.models.export import export_model
from ringattn.models.landmark import to_landmark
from ringattn.models.load import load_model
from ringattn.models.support import text_model
from ringattn.settings.adapter import AdapterConfig
from ringattn.settings.retrieval import RetrievalConfig

pytest.importorskip("peft")


def model(*, tied=False):
    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=61, num_key_value_heads=2, tie_word_embeddings=tied, **sizes))


def stirred(adapted):
    """Weights as after some training: adapters start with a zero factor."""
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return adapted


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_plain_transformers_loads_the_merged_model_with_the_same_logits(tmp_path, tied, whole):
    config = AdapterConfig(kind="lora", rank=4, alpha=6.0, train_embeddings=whole, train_norms=whole)
    adapted = stirred(adapt(model(tied=tied), config)).eval()
    ids = torch.arange(20)[None] % 61
    plain = merged_weights(adapted, dict(adapted.state_dict()))
    export_model(text_model(adapted), plain, tmp_path, dtype=torch.float32)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)
    assert type(loaded) is LlamaForCausalLM and not is_adapted(loaded)
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, adapted(ids).logits, rtol=1e-5, atol=1e-6)


def test_only_what_was_asked_for_is_trained():
    trained = {n for n, p in adapt(model(), AdapterConfig(kind="lora")).named_parameters() if p.requires_grad}
    assert trained and all(".lora_" in name for name in trained)
    some = AdapterConfig(kind="lora", targets="q_proj,v_proj", train_norms=True)
    trained = {n for n, p in adapt(model(), some).named_parameters() if p.requires_grad}
    kinds = {name.split(".lora_")[0].rpartition(".")[2] for name in trained if ".lora_" in name}
    assert kinds == {"q_proj", "v_proj"}
    assert sum("modules_to_save" in name for name in trained) == 5  # Two norms a layer, and the last.


def test_the_landmark_of_a_landmark_model_is_trained_with_the_adapters(tmp_path):
    adapted = stirred(adapt(to_landmark(model(), 4), AdapterConfig(kind="lora"))).eval()
    trained = {n for n, p in adapted.named_parameters() if p.requires_grad and ".lora_" not in n}
    assert trained == {"base_model.model.model.landmark.modules_to_save.default.weight"}
    export_model(
        text_model(adapted), merged_weights(adapted, dict(adapted.state_dict())), tmp_path, dtype=torch.float32
    )
    loaded, ids = load_model(tmp_path), torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, adapted(ids).logits, rtol=1e-5, atol=1e-6)
    everything = RetrievalConfig(k=5, window=8, positions="plain")
    made = ringattn.generate(adapted, ids, max_new_tokens=3, retrieval=everything)
    assert torch.equal(made, ringattn.generate(loaded, ids, max_new_tokens=3, retrieval=everything))


def test_a_target_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"it has no qproj: choose from down_proj, .*q_proj.*adapter.targets=linear"):
        adapt(model(), AdapterConfig(kind="lora", targets="qproj"))


def spread(rank):
    torch.manual_seed(0)
    adapted = stirred(adapt(model().double(), AdapterConfig(kind="lora", rank=4, train_embeddings=True))).double()
    sp = ringattn.SequenceParallel(schedule="ring")
    ids = torch.arange(24)[None] % 61
    outputs = ringattn.parallelize(adapted, sp)(input_ids=ids, labels=ids)
    outputs.loss.backward()
    return {n: p.grad for n, p in adapted.named_parameters() if p.requires_grad}


def test_gradients_of_adapters_over_two_ranks_are_those_of_one():
    [alone] = run_ranks(1, spread)
    ranks = run_ranks(2, spread)
    for name, expected in alone.items():
        torch.testing.assert_close((ranks[0][name] + ranks[1][name]) / 2, expected, rtol=1e-6, atol=1e-9)
