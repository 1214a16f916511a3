"""The short causal convolution before a linear attention's query, key and value.

Depthwise, four tokens wide, then SiLU (DeltaNet, arXiv 2406.06484, section 3.4; GatedDeltaNet, 2412.06464, figure 1;
KDA, 2510.26692, section 4): out_t = silu(sum_j weight_j x_{t-j}) over the tokens of the same document. The tokens
before a run that lie on other ranks come from them; those before the sequence are what an earlier call left (`tail`),
or zeros.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ringattn.layers.linear.context import Context
from ringattn.layers.linear.pieces import starts_in


class ShortConvolution(nn.Module):
    """weight: [channels, 1, width], as nn.Conv1d has it; its last column meets the token itself."""

    def __init__(self, channels: int, *, width: int = 4) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"a convolution is at least 1 token wide, got conv_width={width}: 4 is what papers use")
        self.width = width
        self.weight = nn.Parameter(torch.empty(channels, 1, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As torch.nn.Conv1d: uniform within 1/sqrt(width)."""
        nn.init.uniform_(self.weight, -(self.width**-0.5), self.width**-0.5)

    def forward(self, x: Tensor, *, context: Context, tail: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x: [B, n, C]; tail: [B, width - 1, C], the tokens before the sequence. Returns (out [B, n, C], the tail for
        the tokens that follow, which only a process alone has a use for)."""
        context.check(x)
        lengths = [len(run) for run in context.runs]
        halos = self._halos(x, context, tail)
        outs, tails = [], []
        for run, part, halo in zip(context.runs, x.split(lengths, dim=1), halos, strict=True):
            whole = torch.cat((halo.to(x.dtype), part), dim=1)
            outs.append(self._one_run(whole, run, context.documents))
            tails.append(whole[:, whole.shape[1] - (self.width - 1) :])
        out = outs[0] if len(outs) == 1 else torch.cat(outs, dim=1)
        return functional.silu(out), tails[max((number for number, length in enumerate(lengths) if length), default=0)]

    def _halos(self, x: Tensor, context: Context, tail: Tensor | None) -> list[Tensor]:
        """For each run, the width - 1 tokens before it."""
        if context.sp is not None and context.layout is not None:
            from ringattn.layers.linear.halo import halo

            return list(halo(x, self.width, context.layout, context.sp).unbind(0))
        if tail is None:
            return [x.new_zeros(x.shape[0], self.width - 1, x.shape[2])]
        return [tail]

    def _one_run(self, whole: Tensor, run: range, documents: tuple[int, ...] | None) -> Tensor:
        """whole: a run of tokens behind the width - 1 tokens before it."""
        mask = self._of_one_document(run, documents, whole.device)
        weight = self.weight[:, 0].to(whole.dtype)
        out = whole[:, self.width - 1 :] * weight[:, -1]
        for back in range(1, self.width):
            before = whole[:, self.width - 1 - back : whole.shape[1] - back]
            if mask is not None:
                before = before * mask[back - 1, :, None]
            out = out + before * weight[:, -1 - back]
        return out

    def _of_one_document(self, run: range, documents: tuple[int, ...] | None, device: torch.device) -> Tensor | None:
        """bool [width - 1, n]: whether the token 1, 2, ... before each is of the same document; None where all are."""
        starts = starts_in(documents, [range(run.start - (self.width - 1), run.stop)])
        if len(starts) == 0:
            return None
        begun = torch.from_numpy(starts).to(device)
        places = torch.arange(run.start, run.stop, device=device)
        before = places - torch.arange(1, self.width, device=device)[:, None]
        # The document of a token is how many have begun at or before it.
        return torch.searchsorted(begun, places, right=True) == torch.searchsorted(begun, before, right=True)
