"""Activation checkpointing that keeps attention.

A checkpointed layer is run again in the backward. Its projections, norms and feed-forward are cheap to run again;
attention is not, for it communicates. So attention's out and lse are kept from the forward (as in the checkpointing of
DistFlashAttn, arXiv 2310.03294), query, key and value are computed again, and attention's backward has all it needs.

Any use of torch.utils.checkpoint can have it, with `use_reentrant=False, context_fn=keeping_attention(sp)`, and so can
transformers' Trainer, in `gradient_checkpointing_kwargs`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from ringattn.attention import SequenceParallel
from ringattn.runtime.kept import Keeping, Kept


def keeping_attention(sp: SequenceParallel) -> Callable[[], tuple[Keeping, Keeping]]:
    """A `context_fn` for torch.utils.checkpoint: the context of each region's forward and of its recomputation."""

    def contexts() -> tuple[Keeping, Keeping]:
        kept = Kept()
        return sp.keeping(kept, replaying=False), sp.keeping(kept, replaying=True)

    return contexts


def enable_checkpointing(model: Any, sp: SequenceParallel, *, keep_attention: bool) -> None:
    """Checkpoint each layer of a Hugging Face model; its attention is kept, or computed and communicated again."""
    settings: dict[str, Any] = {"use_reentrant": False}
    if keep_attention:
        settings["context_fn"] = keeping_attention(sp)
    with warnings.catch_warnings():
        # transformers 5.23 says that the method will have another name in version 6; before 5.20 it has this one alone.
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing_enable", category=FutureWarning)
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)
