"""Which weights a fine-tune trains: all, or low-rank adapters (LoRA, arXiv 2106.09685) and what goes with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ringattn.settings.rules import fractions, positive


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """`kind=lora`: rank, alpha (the update is scaled by alpha / rank) and dropout of the adapters.

    `targets`: `attention` (its four projections), `linear` (every projection of a layer), or the modules' names with
    commas. `train_embeddings` and `train_norms` train those whole: at lengths that the model has not seen, adapters
    alone fall behind full fine-tuning, and these two, a few per cent of the weights, close the gap (LongLoRA, arXiv
    2309.12307, section 3.3).
    """

    kind: Literal["none", "lora"] = "none"
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: str = "linear"
    train_embeddings: bool = False
    train_norms: bool = False


def check_adapter(adapter: AdapterConfig) -> None:
    """The rules that one field's type cannot state; ValueError where one is broken."""
    positive({"adapter.rank": adapter.rank, "adapter.alpha": adapter.alpha})
    fractions({"adapter.dropout": adapter.dropout})
    if adapter.kind == "none" and (adapter.train_embeddings or adapter.train_norms):
        raise ValueError(
            "adapter.train_embeddings and adapter.train_norms add to adapters, and adapter.kind=none trains all "
            "weights anyway: write adapter=lora, or drop them."
        )
    if not adapter.targets.strip():
        raise ValueError("adapter.targets must name modules, got none: write adapter.targets=linear.")
