"""The layers of a hybrid model: LLaMA's, with attention or a linear mixer in the middle."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.llama.modeling_llama import (
    LlamaMLP,
    LlamaRMSNorm,
    apply_rotary_pos_emb,
    eager_attention_forward,
)

from ringattn.layers.linear.context import Context
from ringattn.layers.linear.mixers import mixer_class
from ringattn.models.hybrid.cache import HybridCache, StateLayer
from ringattn.models.hybrid.config import HybridConfig
from ringattn.models.hybrid.states import ShardedStates


class HybridAttention(nn.Module):
    """Grouped-query attention through transformers' attention interface, full or over a window, rotated or not."""

    def __init__(self, config: HybridConfig, layer_idx: int) -> None:
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        self.layer_type = config.layer_types[layer_idx]
        sliding = self.layer_type == "sliding_attention"
        self.sliding_window = config.sliding_window if sliding else None
        self.rotated = ("sliding" if sliding else "full") in config.rope_layers
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = True
        queries, keys = (heads * self.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads))
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=config.attention_bias)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=config.attention_bias)

    def forward(
        self,
        hidden: Tensor,
        *,
        rotation: tuple[Tensor, Tensor],
        visible: Tensor | None,
        cache: HybridCache | None,
        more: dict[str, Any],
    ) -> Tensor:
        """hidden: [B, n, size]. visible: what `_mask` reads, for one process. more: for the attention function."""
        query, key, value = (
            projection(hidden).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.rotated:
            query, key = apply_rotary_pos_emb(query, key, *rotation)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        name = self.config._attn_implementation
        function: Any = eager_attention_forward if name == "eager" else AttentionInterface()[name]
        out, _ = function(
            self,
            query,
            key,
            value,
            None if visible is None else self._mask(visible, key.shape[2], query.dtype),
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            sliding_window=self.sliding_window,
            **more,
        )
        return self.o_proj(out.flatten(2))

    def _mask(self, visible: Tensor, keys: int, dtype: torch.dtype) -> Tensor:
        """visible: bool [B or 1, n, all tokens so far], which the token sees but for the window. Returns what is added
        to the scores, [B or 1, 1, n, keys], of the last `keys` tokens."""
        total, queries = visible.shape[-1], visible.shape[-2]
        seen = visible[..., total - keys :]
        if self.sliding_window is not None:
            at = torch.arange(total, device=visible.device)
            seen = seen & (at[total - queries :, None] - at[total - keys :] < self.sliding_window)
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(
            ~seen, torch.finfo(dtype).min
        )[:, None]  # fmt: skip


class HybridLayer(GradientCheckpointingLayer):
    """Norm, attention or mixer, norm, feed-forward; residuals around both."""

    def __init__(self, config: HybridConfig, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.linear = config.layer_types[layer_idx] == "linear_attention"
        if self.linear:
            self.mixer = mixer_class(config.mixer)(config.mixer_sizes(layer_idx))
        else:
            self.self_attn = HybridAttention(config, layer_idx)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self,
        hidden: Tensor,
        *,
        context: Context,
        rotation: tuple[Tensor, Tensor],
        visible: Tensor | None = None,
        kept: Tensor | None = None,
        past_key_values: HybridCache | None = None,
        states: ShardedStates | None = None,
        more: dict[str, Any],
    ) -> Tensor:
        """kept: [B, n, 1], 0 where a token is padding. states: the linear layers', while ranks generate."""
        residual, hidden = hidden, self.input_layernorm(hidden)
        if self.linear:
            # Padding before a text is written nowhere: a mixer's maps of the token have no bias where they write.
            hidden = hidden if kept is None else hidden * kept
            hidden = self._mix(hidden, context, past_key_values, states)
        else:
            hidden = self.self_attn(hidden, rotation=rotation, visible=visible, cache=past_key_values, more=more)
        hidden = residual + hidden
        out: Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return out

    def _mix(self, hidden: Tensor, context: Context, cache: HybridCache | None, states: ShardedStates | None) -> Tensor:
        if states is not None:
            return states.mix(self.mixer, self.layer_idx, hidden, context)
        layer = None if cache is None else cache.layers[self.layer_idx]
        assert layer is None or isinstance(layer, StateLayer)
        out: Tensor = self.mixer(hidden, context=context, carry=None if layer is None else layer.carry)
        if layer is not None:
            layer.tokens += hidden.shape[1]
        return out
