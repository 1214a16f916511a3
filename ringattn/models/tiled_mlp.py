"""Feed-forward layers over one chunk of tokens after another, so that tokens x intermediate size is never whole.

A feed-forward layer treats each token by itself. Each chunk is computed again in the backward: what it keeps meanwhile
is its input alone (as the tiled MLP of Arctic Long Sequence Training, arXiv 2506.13996, section 3.3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ringattn.models.support import text_model


def tile_mlp(model: nn.Module, chunk: int) -> None:
    """Let each layer's feed-forward read at most `chunk` tokens at one time.

    Raises:
        ValueError: the model's layers have no plain feed-forward (a mixture of experts, say).
    """
    inner: Any = text_model(model)
    layers = getattr(inner.model, "layers", None)
    found = [getattr(layer, "mlp", None) for layer in layers or ()]
    if not found or not all(isinstance(mlp, nn.Module) and hasattr(mlp, "down_proj") for mlp in found):
        raise ValueError(
            f"trainer.mlp_chunk cuts the feed-forward `layer.mlp` of each layer, and {type(inner).__name__} has none "
            "that treats each token by itself: write trainer.mlp_chunk=null."
        )
    for mlp in found:
        assert mlp is not None
        mlp.forward = _tiled(mlp.forward, chunk)


def _tiled(forward: Callable[[Tensor], Tensor], chunk: int) -> Callable[[Tensor], Tensor]:
    def tiled(states: Tensor) -> Tensor:
        """states: [B, n, hidden size]."""
        if states.shape[1] <= chunk:
            return forward(states)
        pieces = states.split(chunk, dim=1)
        if not torch.is_grad_enabled():
            return torch.cat([forward(piece) for piece in pieces], dim=1)
        return torch.cat([checkpoint(forward, piece, use_reentrant=False) for piece in pieces], dim=1)

    return tiled
