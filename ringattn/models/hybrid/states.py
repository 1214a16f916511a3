"""States of linear layers while several ranks generate: after the prompt, the same on every rank.

A prompt lies on all ranks, and the state after it on the one that holds its last token; the others get it from there. A
new token then is on every rank, and each goes on from its own copy of the state: nothing is sent.
"""

from __future__ import annotations

from torch import Tensor

from ringattn.attention import SequenceParallel
from ringattn.layers.linear.context import Context
from ringattn.layers.linear.mixers.mixer import Carry, Mixer, MixerState


class ShardedStates:
    """decoding: whether the call under way reads one token, on every rank, and not a prompt."""

    def __init__(self, sp: SequenceParallel) -> None:
        self.sp = sp
        self.decoding = False
        self._carries: dict[int, Carry] = {}

    def mix(self, mixer: Mixer, layer: int, hidden: Tensor, context: Context) -> Tensor:
        """What the mixer makes of the tokens [B, n, D], whose state is kept. Collective, while a prompt is read."""
        if self.decoding:
            carry = self._carries.setdefault(layer, Carry())
            out: Tensor = mixer(hidden, context=context, carry=carry)
            return out
        carry = self._carries[layer] = Carry()
        out = mixer(hidden, context=context, carry=carry)
        assert carry.state is not None
        owner = self._owner(context)
        matrix, *tails = (self.sp.gather(part)[owner] for part in (carry.state.matrix, *carry.state.tails))
        carry.state = MixerState(matrix, tuple(tails))
        return out

    def _owner(self, context: Context) -> int:
        layout = context.layout
        if layout is None:
            return 0
        return next(rank for rank in range(layout.world) if any(layout.length - 1 in run for run in layout.of(rank)))

    @property
    def bytes(self) -> int:
        """What the states take on each rank."""
        return sum(carry.state.bytes for carry in self._carries.values() if carry.state is not None)
