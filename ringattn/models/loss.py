"""The loss of a parallelized model, of this rank's tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

IGNORE = -100


def shift(labels: Tensor, documents: tuple[int, ...] | None) -> Tensor:
    """What each token is to predict: int64 [B, L] of labels [B, L]. The last token of the sequence, and of each packed
    document, predicts nothing."""
    targets = torch.cat((labels[:, 1:], labels.new_full((labels.shape[0], 1), IGNORE)), dim=1)
    for end in documents or ():
        if end:
            targets[:, end - 1] = IGNORE
    return targets


def local_loss(
    logits: Tensor,
    labels: Tensor,
    vocab_size: int,
    num_items_in_batch: Tensor | float | None = None,
    shift_labels: Tensor | None = None,
    **unused: Any,
) -> Tensor:
    """Sum of the losses of this rank's tokens over `num_items_in_batch`; the loss function of parallelized models.

    logits: [B, n, vocab_size]; shift_labels: int64 [B, n], what each token is to predict, -100 for nothing.
    Computed in fp32 at least.
    """
    if shift_labels is None or num_items_in_batch is None:
        raise ValueError(
            "labels must be shifted before they are cut, but they came to the loss by another way than a call of the "
            "parallelized model: parallelize the outermost model (the PEFT model, not the one inside), call the model "
            "and not its forward, and use a model that passes its keyword arguments on to its loss"
        )
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32)).view(-1, vocab_size)
    total = torch.nn.functional.cross_entropy(
        wide, shift_labels.reshape(-1).to(logits.device), ignore_index=IGNORE, reduction="sum"
    )
    count = num_items_in_batch.to(total.device) if isinstance(num_items_in_batch, Tensor) else num_items_in_batch
    return total / count
