"""A feed-forward over chunks of tokens: the same numbers, and no tokens x intermediate size."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

import ringattn
from ringattn.models.tiled_mlp import tile_mlp

TOKENS, INTERMEDIATE = 40, 52


def model():
    torch.manual_seed(3)
    sizes = {"hidden_size": 16, "intermediate_size": INTERMEDIATE, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=31, **sizes)).double()


class Largest(TorchDispatchMode):
    """The longest tensor with a dimension of the intermediate size, in tokens."""

    tokens = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.ndim >= 2 and tensor.shape[-1] == INTERMEDIATE:
                rows = tensor.numel() // INTERMEDIATE
                # Weights are [intermediate, hidden], and their gradients may be transposed: not tokens.
                self.tokens = max(self.tokens, rows if rows not in (16, INTERMEDIATE) else 0)
        return out


def step(own):
    ids = torch.arange(TOKENS)[None] % 31
    with Largest() as largest:
        loss = own(input_ids=ids, labels=ids).loss
        loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in own.named_parameters()}, largest.tokens


@pytest.mark.parametrize("checkpointing", [False, True])
def test_chunks_give_the_same_loss_and_gradients(checkpointing):
    plain = ringattn.parallelize(model(), ringattn.SequenceParallel())
    tiled = ringattn.parallelize(model(), ringattn.SequenceParallel(), gradient_checkpointing=checkpointing)
    tile_mlp(tiled, 9)
    loss, gradients, largest = step(plain)
    loss_tiled, gradients_tiled, largest_tiled = step(tiled)
    torch.testing.assert_close(loss_tiled, loss, rtol=1e-12, atol=0)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradients_tiled[name], gradient, rtol=1e-9, atol=1e-12)
    assert (largest, largest_tiled) == (TOKENS, 9)


def test_a_mixture_of_experts_is_refused():
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    own = MixtralForCausalLM(MixtralConfig(vocab_size=31, num_key_value_heads=2, num_local_experts=2, **sizes))
    with pytest.raises(ValueError, match=r"MixtralForCausalLM has none .*trainer.mlp_chunk=null"):
        tile_mlp(own, 8)
