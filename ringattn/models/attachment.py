"""What ties a model to its ranks: one explicit object, an attribute of the modules that need it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from ringattn.attention import SequenceParallel
from ringattn.models.cut import Cut

_ATTRIBUTE = "ringattn"


@dataclass(eq=False)
class Attachment:
    """The ranks of a parallelized model, and what is known of the call under way.

    outermost: the module whose call is under way. attended: whether attention was reached in it.
    last_position: the highest position of the whole sequence, which some rotary embeddings depend on.
    warned: whether the user was told of a sequence longer than the model's positions.
    cut: how its sequences are spread over the ranks.
    """

    sp: SequenceParallel
    cut: Cut
    outermost: nn.Module | None = None
    attended: bool = False
    last_position: int = 0
    warned: bool = False

    def attach(self, module: nn.Module) -> None:
        setattr(module, _ATTRIBUTE, self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Attachment:
        # A copy of a model (an average of weights, say) works on the same ranks; process groups can't be copied.
        return self


def cut_of(model: nn.Module) -> Cut:
    """How a parallelized model's sequences are spread over the ranks: of a landmark model, not as its `sp` would.

    Raises ValueError where the model is not parallelized.
    """
    found = attachment_of(model)
    if found is None:
        raise ValueError(f"{type(model).__name__} is not parallelized: call ringattn.parallelize(model, sp) first")
    return found.cut


def attachment_of(module: nn.Module) -> Attachment | None:
    """What `ringattn.parallelize` left on `module`; None where it was not there."""
    found = getattr(module, _ATTRIBUTE, None)
    return found if isinstance(found, Attachment) else None
