"""Token mixers by linear attention, one file a paper, and their names."""

from __future__ import annotations

from ringattn.layers.linear.mixers.deltanet import DeltaNet
from ringattn.layers.linear.mixers.gated_deltanet import GatedDeltaNet
from ringattn.layers.linear.mixers.gla import GLA
from ringattn.layers.linear.mixers.hgrn import HGRN
from ringattn.layers.linear.mixers.hgrn2 import HGRN2
from ringattn.layers.linear.mixers.kda import KDA
from ringattn.layers.linear.mixers.lightning import Lightning
from ringattn.layers.linear.mixers.mixer import Mixer
from ringattn.layers.linear.mixers.retnet import RetNet
from ringattn.sequence.suggest import suggest

MIXERS: dict[str, type[Mixer]] = {
    kind.name: kind for kind in (DeltaNet, GatedDeltaNet, GLA, HGRN, HGRN2, KDA, Lightning, RetNet)
}


def mixer_class(name: str) -> type[Mixer]:
    """The mixer of that name; ValueError where there is none."""
    if name not in MIXERS:
        raise ValueError(f"unknown mixer {name!r}{suggest(name, list(MIXERS))}; there are {', '.join(MIXERS)}")
    return MIXERS[name]
