"""Small hybrid models in fp64, with weights far from zero."""

from typing import Any

import torch
import transformers
from tiny_models import VOCABULARY, WINDOW, _attend, far_from_zero

from ringattn.layers.linear.mixers.mixer import Mixer
from ringattn.models.hybrid import HybridConfig, HybridForCausalLM


def make_hybrid(mixer: str = "gated_deltanet", *, pattern: Any = None, **changes: Any) -> Any:
    transformers.AttentionInterface.register("reference", _attend)
    config = HybridConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        mixer=mixer,
        pattern=["linear", "sliding", "linear", "full"] if pattern is None else pattern,
        sliding_window=WINDOW,
        linear_heads=1 if mixer == "hgrn" else 2,
        linear_key_dim=1 if mixer == "hgrn" else 4,
        linear_value_dim=6,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **{"rope_layers": ["sliding"], **changes},
    )
    torch.manual_seed(3)
    model = HybridForCausalLM(config).double()
    model.set_attn_implementation("reference")
    assert any(isinstance(module, Mixer) for module in model.modules()) or pattern == "full"
    return far_from_zero(model)
