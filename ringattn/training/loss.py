"""Cross-entropy over token chunks, so that [tokens, vocabulary] never exists whole, and the scale of a rank's
loss.

At a million tokens and 128,000 words the logits alone are 512 GB in fp32. Each chunk's logits are made,
turned into losses and straight into gradients (softmax minus one-hot), and dropped: the backward only scales
what the forward left, so that the head's matrix product is never computed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

IGNORE = -100

# Of a chunk's place, its logits and whether a gradient is needed: the losses' sum, and the gradient in the logits.
_OfChunk = Callable[[slice, torch.Tensor, bool], tuple[torch.Tensor, torch.Tensor | None]]


def local_loss_scale(*, world: int, accumulation: int, valid_tokens: int) -> float:
    """What a rank's *sum* of token losses is multiplied by, where gradients are averaged over the world.

    `valid_tokens` counts the labels of the whole global batch (all ranks, all accumulation steps) that are
    not ignored. The average over ranks and accumulation steps of the scaled losses is then the mean over
    tokens, however the tokens are spread.
    """
    if valid_tokens < 1:
        raise ValueError(
            f"a batch needs at least one label that is not {IGNORE}, got {valid_tokens}: check the labels."
        )
    return world * accumulation / valid_tokens


def chunked_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    *,
    chunk: int = 1024,
    softcap: float | None = None,
) -> torch.Tensor:
    """Sum of token cross-entropies, differentiable in `hidden` and `weight`.

    Args:
        hidden: [n, hidden size], the states that the output head reads.
        weight: [vocabulary, hidden size], the head.
        labels: int64 [n], already shifted; `IGNORE` (-100) counts nothing.
        chunk: tokens whose logits exist at one time.
        softcap: Gemma 2's `c * tanh(logits / c)`.

    Returns:
        A scalar, fp32 (fp64 for fp64 inputs). No tokens give zero.
    """
    _check(hidden, weight, labels, chunk)

    def of_chunk(part: slice, logits: torch.Tensor, needed: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        loss = _losses(logits, labels[part]).sum()
        return loss, _logit_gradient(logits, labels[part]) if needed else None

    result: torch.Tensor = _Chunked.apply(hidden, weight, of_chunk, chunk, softcap)
    return result


@dataclass(frozen=True)
class Guide:
    """What a teacher says of the same tokens. hidden: [n, its hidden size], the states that its head `weight`
    [vocabulary, its hidden size] reads; softcap: as the student's. share: of the loss that is the teacher's, 0 to 1.
    temperature: what both models' logits are divided by before they are compared."""

    hidden: torch.Tensor
    weight: torch.Tensor
    share: float
    temperature: float
    softcap: float | None = None


def chunked_distillation(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    guide: Guide,
    *,
    chunk: int = 1024,
    softcap: float | None = None,
) -> torch.Tensor:
    """Sum over tokens of (1 - share) cross-entropy + share T^2 KL(teacher || student) at temperature T.

    As `chunked_cross_entropy`; of tokens without a label the teacher's guess counts nothing either. T^2 keeps the
    gradient's size the same at any temperature (G. Hinton, O. Vinyals, J. Dean, arXiv 1503.02531, section 2).
    Differentiable in `hidden` and `weight` alone.
    """
    _check(hidden, weight, labels, chunk)
    if guide.hidden.shape[0] != hidden.shape[0] or guide.weight.shape[0] != weight.shape[0]:
        raise ValueError(
            "teacher and student read the same tokens and share a vocabulary, got "
            f"{guide.hidden.shape[0]} and {hidden.shape[0]} tokens, {guide.weight.shape[0]} and {weight.shape[0]} "
            "words: give a teacher with the student's tokenizer."
        )
    share, temperature = guide.share, guide.temperature

    def of_chunk(part: slice, logits: torch.Tensor, needed: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        own = labels[part]
        valid = (own != IGNORE)[:, None]
        theirs = _logits(guide.hidden[part], guide.weight, guide.softcap).to(logits.dtype)
        log_teacher = torch.log_softmax(theirs / temperature, dim=-1)
        teacher = log_teacher.exp()
        log_student = torch.log_softmax(logits / temperature, dim=-1)
        apart = (teacher * (log_teacher - log_student) * valid).sum()
        loss = (1 - share) * _losses(logits, own).sum() + share * temperature**2 * apart
        if not needed:
            return loss, None
        gradient = log_student.exp_().sub_(teacher).mul_(share * temperature).mul_(valid)
        return loss, gradient.add_(_logit_gradient(logits, own), alpha=1 - share)

    result: torch.Tensor = _Chunked.apply(hidden, weight, of_chunk, chunk, softcap)
    return result


@torch.no_grad()
def token_losses(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    *,
    chunk: int = 1024,
    softcap: float | None = None,
) -> torch.Tensor:
    """Each token's cross-entropy, [n] fp32 (fp64 for fp64 inputs), 0 where the label is `IGNORE`; no
    gradient.
    """
    _check(hidden, weight, labels, chunk)
    losses = hidden.new_zeros(hidden.shape[0], dtype=_at_least_fp32(hidden.dtype))
    for part in _chunks(hidden.shape[0], chunk):
        logits = _logits(hidden[part], weight, softcap)
        losses[part] = _losses(logits, labels[part])
    return losses


@torch.no_grad()
def token_predictions(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    *,
    chunk: int = 1024,
    softcap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each token's likeliest successor, int64 [n] (the first of several alike), and its cross-entropy as in
    `token_losses`, from the same logits.
    """
    _check(hidden, weight, labels, chunk)
    losses = hidden.new_zeros(hidden.shape[0], dtype=_at_least_fp32(hidden.dtype))
    best = torch.zeros_like(labels)
    for part in _chunks(hidden.shape[0], chunk):
        logits = _logits(hidden[part], weight, softcap)
        losses[part], best[part] = _losses(logits, labels[part]), logits.argmax(dim=-1)
    return best, losses


class _Chunked(torch.autograd.Function):
    """Sum of losses of tokens under a head. `of_chunk(part, logits)` gives a chunk's sum and, by need, its gradient in
    the logits, after the cap where there is one."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        of_chunk: _OfChunk,
        chunk: int,
        softcap: float | None,
    ) -> torch.Tensor:
        precise = _at_least_fp32(hidden.dtype)
        total = hidden.new_zeros((), dtype=precise)
        hidden_needs, weight_needs = ctx.needs_input_grad[:2]
        d_hidden = torch.empty_like(hidden) if hidden_needs else None
        # Chunks add up in the head's gradient: summed in fp32 and rounded once.
        d_weight = torch.zeros_like(weight, dtype=precise) if weight_needs else None
        for part in _chunks(hidden.shape[0], chunk):
            logits = _logits(hidden[part], weight, softcap)
            loss, gradient = of_chunk(part, logits, hidden_needs or weight_needs)
            total += loss
            if gradient is None:
                continue
            if softcap is not None:
                gradient *= 1 - (logits / softcap) ** 2  # d tanh, from the capped logits themselves.
            d_logits = gradient.to(hidden.dtype)
            if d_hidden is not None:
                d_hidden[part] = d_logits @ weight
            if d_weight is not None:
                d_weight += d_logits.T @ hidden[part]
        ctx.gradients = (d_hidden, None if d_weight is None else d_weight.to(weight.dtype))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_total: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the loss's gradients are handed over in its backward, which can run once")
        # Scaled in place and handed over: a copy of each would stay for as long as the loss has its name.
        gradients, ctx.gradients = ctx.gradients, None
        for gradient in gradients:
            if gradient is not None:
                gradient.mul_(d_total.to(gradient.dtype))
        return (*gradients, None, None, None)


def _chunks(tokens: int, chunk: int) -> Iterator[slice]:
    for start in range(0, tokens, chunk):
        yield slice(start, min(start + chunk, tokens))


def _at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _logits(hidden: torch.Tensor, weight: torch.Tensor, softcap: float | None) -> torch.Tensor:
    logits = (hidden @ weight.T).to(_at_least_fp32(hidden.dtype))
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def _losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")


def _logit_gradient(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """d loss / d logits; zero rows where the label is ignored."""
    valid = labels != IGNORE
    gradient = torch.softmax(logits, dim=-1)
    gradient[torch.arange(len(labels), device=labels.device), labels.clamp(min=0)] -= 1
    gradient *= valid[:, None]
    return gradient


def _check(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, chunk: int) -> None:
    if hidden.ndim != 2 or weight.ndim != 2 or labels.shape != hidden.shape[:1]:
        raise ValueError(
            "the loss takes hidden [n, size], weight [vocabulary, size] and labels [n], got "
            f"{list(hidden.shape)}, {list(weight.shape)} and {list(labels.shape)}: flatten batch and "
            "sequence first."
        )
    if hidden.shape[1] != weight.shape[1] or hidden.dtype != weight.dtype:
        raise ValueError(
            "hidden states and head must share their size and dtype, got "
            f"{hidden.shape[1]} of {hidden.dtype} and {weight.shape[1]} of {weight.dtype}: cast one of them."
        )
    if chunk < 1:
        raise ValueError(f"chunk must be at least one token, got {chunk}: write for example 1024.")
