"""Gradients of replicated weights: averaged over the world in fp32, in flat buckets, then clipped by their
norm.

fp32 whatever the weights are: an all-reduce in bf16 rounds at each hop, so its error grows with the number of
ranks. Every rank ends with the same bits, so the norm is exact with no further communication.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist

BUCKET_BYTES = 64 * 2**20


@torch.no_grad()
def average_gradients(parameters: Iterable[torch.nn.Parameter], *, bucket_bytes: int = BUCKET_BYTES) -> None:
    """Replace each gradient by its average over all ranks; one that a rank lacks (it had no tokens) counts as
    zero.

    All ranks must pass the same parameters in the same order.
    """
    trained = [p for p in parameters if p.requires_grad]
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    world = dist.get_world_size()
    for bucket in _buckets(trained, bucket_bytes):
        gradients = [p.grad for p in bucket if p.grad is not None]
        flat = torch.cat([g.reshape(-1).float() for g in gradients])
        dist.all_reduce(flat)
        flat /= world
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()


@torch.no_grad()
def clip_gradients(parameters: Iterable[torch.nn.Parameter], limit: float) -> float:
    """Scale averaged gradients so that their norm over all parameters is at most `limit`; returns the norm
    before.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return 0.0
    norms = torch.stack([torch.linalg.vector_norm(g, dtype=torch.float32) for g in gradients])
    norm = float(torch.linalg.vector_norm(norms))
    if norm > limit:
        for gradient in gradients:
            gradient.mul_(limit / norm)
    return norm


def _buckets(parameters: list[torch.nn.Parameter], limit: int) -> Iterator[list[torch.nn.Parameter]]:
    bucket: list[torch.nn.Parameter] = []
    held = 0
    for parameter in parameters:
        size = parameter.numel() * 4
        if bucket and held + size > limit:
            yield bucket
            bucket, held = [], 0
        bucket.append(parameter)
        held += size
    if bucket:
        yield bucket
