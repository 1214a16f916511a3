"""Learning rate, Muon's orthogonal updates, and which parameters it takes."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ringattn.settings.optimizer import OptimizerConfig
from ringattn.training.optimizer import Optimizer, learning_rate_factor, orthogonalize, split_parameters


def test_learning_rate_warms_up_and_falls_along_a_cosine():
    factors = [learning_rate_factor(s, steps=10, warmup=0.2, final=0.1) for s in range(10)]
    assert factors[:3] == [0.5, 1.0, 1.0]
    assert factors[6] == pytest.approx(0.55)
    assert sorted(factors[1:], reverse=True) == factors[1:]
    assert learning_rate_factor(0, steps=10, warmup=0.0, final=0.1) == 1.0


@pytest.mark.parametrize("shape", [(8, 8), (6, 20), (20, 6)])
def test_orthogonalize_brings_singular_values_close_to_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    update = orthogonalize(matrix)
    assert update.shape == matrix.shape and update.dtype == matrix.dtype
    # In the matrix's own singular basis the update is diagonal.
    diagonal = left.T @ update @ right.T
    assert (torch.diag(diagonal) > 0.6).all() and (torch.diag(diagonal) < 1.3).all()
    torch.testing.assert_close(diagonal, torch.diag(torch.diag(diagonal)), atol=1e-4, rtol=0)


def tiny_llama(tie=False):
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=16, tie_word_embeddings=tie, **sizes))


@pytest.mark.parametrize("tie", [False, True])
def test_muon_takes_the_matrices_inside_the_layers(tie):
    model = tiny_llama(tie)
    matrices, rest = split_parameters(model)
    names = {id(p): name for name, p in model.named_parameters()}
    assert len(matrices) == 7 and all(".layers.0." in names[id(p)] for p in matrices)
    assert len(matrices) + len(rest) == len(list(model.parameters()))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_step_follows_the_schedule_and_clears_gradients(name):
    model = tiny_llama()
    optimizer = Optimizer(model, OptimizerConfig(name=name, learning_rate=0.01, warmup=0.5), steps=4)
    ids = torch.arange(8)[None]
    losses, rates = [], []
    for step in range(4):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        losses.append(loss.item())
        rates.append(optimizer.step(step))
    assert losses[-1] < losses[0]
    assert rates[:2] == [0.005, 0.01]
    assert all(p.grad is None for p in model.parameters())


def test_a_frozen_parameter_is_not_touched():
    model = tiny_llama()
    model.lm_head.weight.requires_grad_(False)
    before = model.lm_head.weight.clone()
    optimizer = Optimizer(model, OptimizerConfig(name="adamw", weight_decay=0.5), steps=1)
    model(input_ids=torch.arange(4)[None], labels=torch.arange(4)[None]).loss.backward()
    optimizer.step(0)
    assert torch.equal(model.lm_head.weight, before)
