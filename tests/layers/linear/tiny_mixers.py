"""Small mixers in fp64, with parameters far from what they start at."""

import torch
from torch import Tensor, nn

from ringattn.layers.linear.mixers import MIXERS
from ringattn.layers.linear.mixers.mixer import Mixer, MixerSizes

HIDDEN = 8


def make_mixer(name: str, *, kernel: str = "auto") -> Mixer:
    torch.manual_seed(sorted(MIXERS).index(name))
    heads, key_dim, value_dim = (1, 1, 6) if name == "hgrn" else (2, 4, 3)
    sizes = MixerSizes(
        hidden_size=HIDDEN, heads=heads, key_dim=key_dim, value_dim=value_dim, layer=1, layers=3, kernel=kernel
    )
    mixer = MIXERS[name](sizes).double()
    for parameter in mixer.parameters():
        nn.init.normal_(parameter, std=0.7)
    return mixer


def make_hidden(length: int, *, batch: int = 2) -> Tensor:
    torch.manual_seed(7)
    return torch.randn(batch, length, HIDDEN, dtype=torch.float64)


def make_bound(name: str, mixer: Mixer) -> Tensor | None:
    if name not in ("hgrn", "hgrn2"):
        return None
    channels = mixer.sizes.values if name == "hgrn" else mixer.sizes.keys
    return torch.linspace(0.0, 0.8, channels, dtype=torch.float64)
