"""What a stretch of tokens does to the state of a linear attention: state -> transition . state + addition.

Every linear attention here is one recurrence over a matrix state S [dk, dv] per head,

    S_t = T_t S_{t-1} + w_t,

so a stretch of tokens, however long, acts on the state that enters it as one affine map, and two stretches that follow
each other compose to one again. The composition is associative: that is what lets sub-chunks be scanned, and ranks hold
the pieces of a sequence (LASP-2, arXiv 2502.07563, section 3; for dense transitions DeltaNet, arXiv 2406.06484).

A stretch that holds a document's start forgets what was before: its transition is exactly 0. A stretch without tokens
is the identity: transition 1 (or the identity matrix), addition 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Effect:
    """state -> transition . state + addition.

    transition: [..., H], a number per head; [..., H, dk], one per row of the state; or [..., H, dk, dk], a matrix.
    addition: [..., H, dk, dv]. Both fp32 or fp64: products of many transitions do not survive fewer bits. The leading
    dims are the same in both, [stretches, B] where stretches are stacked; their number tells the kinds of transition
    apart. ValueError where the shapes are of none of the three kinds.
    """

    transition: Tensor
    addition: Tensor

    def __post_init__(self) -> None:
        whole = self.addition.shape
        kinds = (whole[:-2], whole[:-1], (*whole[:-1], whole[-2]))
        if tuple(self.transition.shape) not in [tuple(kind) for kind in kinds]:
            raise ValueError(
                f"a transition is [..., H], [..., H, dk] or [..., H, dk, dk] beside an addition [..., H, dk, dv]; got "
                f"{list(self.transition.shape)} beside {list(whole)}"
            )


def apply(effect: Effect, state: Tensor) -> Tensor:
    """The state after the stretch, of the state [..., H, dk, dv] before it."""
    return effect.addition + _transit(effect, state)


def compose(first: Effect, then: Effect) -> Effect:
    """The effect of two stretches, `first` and then `then`; transitions of the same kind (ValueError otherwise)."""
    if first.transition.ndim != then.transition.ndim:
        raise ValueError(
            f"two effects compose where their transitions are of one kind; got {list(first.transition.shape)} and "
            f"{list(then.transition.shape)}"
        )
    dense = then.transition.ndim == then.addition.ndim
    transition = then.transition @ first.transition if dense else then.transition * first.transition
    return Effect(transition, apply(then, first.addition))


def identity_like(effect: Effect) -> Effect:
    """The effect of no tokens, in the shape of `effect`."""
    if effect.transition.ndim == effect.addition.ndim:
        rows = effect.transition.shape[-1]
        eye = torch.eye(rows, dtype=effect.transition.dtype, device=effect.transition.device)
        transition = eye.expand_as(effect.transition)
    else:
        transition = torch.ones_like(effect.transition)
    return Effect(transition, torch.zeros_like(effect.addition))


def _transit(effect: Effect, state: Tensor) -> Tensor:
    missing = effect.addition.ndim - effect.transition.ndim
    if missing == 0:
        return effect.transition @ state
    return effect.transition[(..., *([None] * missing))] * state
