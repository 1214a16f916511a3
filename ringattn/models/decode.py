"""A parallelized model that reads a prompt over all ranks and continues it token by token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ringattn.models.attachment import attachment_of
from ringattn.models.cache import ShardedCache
from ringattn.models.inputs import describe_value
from ringattn.models.support import text_model


class Decoder:
    """Logits of the next token, with keys and values spread over the ranks. All ranks call it together, alike.

    model: what `ringattn.parallelize` returned. reserve: how many tokens will follow the prompt, if known.

    Raises ValueError where the model is not parallelized, or is a landmark model.
    """

    def __init__(self, model: nn.Module, *, reserve: int = 0) -> None:
        attachment = attachment_of(text_model(model))
        if attachment is None:
            raise ValueError(
                f"generation over ranks takes a parallelized model, got {type(model).__name__}: call "
                "ringattn.parallelize(model, sp) first, or model.generate of transformers"
            )
        if attachment.cut.landmark_block is not None:
            raise ValueError(
                f"{type(model).__name__} attends by landmarks, which this decoder does not know: generate with "
                "ringattn.generate, or read with ringattn.models.landmark.read.RandomAccess"
            )
        self.model: Any = model
        self.sp = attachment.sp
        self.cache = ShardedCache(attachment.sp, reserve=reserve)

    @torch.no_grad()
    def read(self, input_ids: Tensor) -> Tensor:
        """Read int64 [B, L] tokens, the same on every rank; the logits [B, vocabulary] after the last one.

        A first prompt is read at once, by the model's schedule and layout; one that leaves a rank without a token, and
        any that comes after, token by token.
        """
        if input_ids.dim() != 2 or input_ids.shape[1] == 0:
            raise ValueError(
                f"a prompt is [batch, tokens] with a token at least, got the shape {tuple(input_ids.shape)}: give a "
                "longer prompt"
            )
        self.sp.agree({"the prompt, which every rank gets whole and alike,": describe_value(input_ids)})
        length = input_ids.shape[1]
        layout = self.sp.layout(length) if self.cache.length == 0 else None
        if layout is None or min(layout.local_length(rank) for rank in range(self.sp.world)) == 0:
            for token in input_ids.T:
                logits = self.step(token)
            return logits
        self.cache.decoding = False
        # The last token of a shard is its latest one, so that the last token of all is the last one of some rank.
        local = self._call(input_ids=input_ids, logits_to_keep=1)
        last = self.sp.positions(length)[-1:]
        owners = [int(position) for position in self.sp.gather(last.to(input_ids.device))]
        logits = self.sp.gather(local)[owners.index(length - 1)]
        self.cache.length = length
        return logits

    @torch.no_grad()
    def step(self, tokens: Tensor) -> Tensor:
        """Read one more token of each row, int64 [B], the same on every rank; the logits [B, vocabulary] after it."""
        self.cache.decoding = True
        positions = torch.full((1, 1), self.cache.length, device=tokens.device)
        logits = self._call(input_ids=tokens[:, None], position_ids=positions)
        self.cache.length += 1
        return logits

    def _call(self, **given: Any) -> Tensor:
        logits: Tensor = self.model(**given, use_cache=False, shards=self.cache).logits
        return logits[:, -1]
