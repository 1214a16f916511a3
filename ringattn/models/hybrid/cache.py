"""What generation keeps of a hybrid model in one process.

That is keys and values of the attending layers, and states of the others, which do not grow with the text.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

from ringattn.layers.linear.mixers.mixer import Carry, MixerState


class StateLayer(CacheLayerMixin):
    """A linear layer's state, and how many tokens made it."""

    is_sliding = False

    def __init__(self) -> None:
        super().__init__()
        self.carry = Carry()
        self.tokens = 0

    @property
    def state(self) -> MixerState | None:
        return self.carry.state

    def get_seq_length(self, *_: Any) -> int:
        return self.tokens

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        queries = query_length if isinstance(query_length, int) else query_length.shape[0]
        return queries + self.tokens, 0

    def get_max_length(self) -> int:
        return -1

    def get_max_cache_shape(self) -> int:
        return -1

    def reset(self) -> None:
        self.carry.state, self.tokens = None, 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        if self.state is not None:
            self.carry.state = MixerState(
                self.state.matrix[beam_idx], tuple(tail[beam_idx] for tail in self.state.tails)
            )

    def lazy_initialization(self, *_: Any) -> None:
        raise ValueError("a linear layer keeps a state, and no keys and values")

    def update(self, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        raise ValueError("a linear layer keeps a state, and no keys and values")

    def crop(self, max_length: int) -> None:
        raise ValueError(
            "a linear layer's state can't be taken back to an earlier token, as assisted generation asks: generate "
            "without an assistant"
        )


class HybridCache(Cache):
    """For `past_key_values`; made by the model where `use_cache` is asked and none is given."""

    def __init__(self, config: Any) -> None:
        super().__init__(layers=[_layer(kind, config) for kind in config.layer_types])


def _layer(kind: str, config: Any) -> Any:
    if kind == "linear_attention":
        return StateLayer()
    return DynamicSlidingWindowLayer(config.sliding_window) if kind == "sliding_attention" else DynamicLayer()
