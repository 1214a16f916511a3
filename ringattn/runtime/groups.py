"""The process groups of one sequence-parallel group: two for data, one direction each, and one for short words."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Groups:
    """upward, downward: for messages to a higher, to a lower rank. control: gloo, for agreement between ranks."""

    rank: int
    world: int
    upward: dist.ProcessGroup
    downward: dist.ProcessGroup
    control: dist.ProcessGroup
    device: torch.device


def make_groups(group: dist.ProcessGroup | None, timeout: float) -> Groups | None:
    """Groups with the ranks of `group` (the default group where None), or None for a single process.

    Collective over the ranks of `group`. Raises ValueError where this rank is not part of it.
    """
    if not dist.is_available() or not dist.is_initialized():
        if group is not None:
            raise ValueError("a process group was given, but torch.distributed is not initialized")
        return None
    if group is not None and (group == dist.GroupMember.NON_GROUP_MEMBER or dist.get_rank(group) < 0):
        raise ValueError(
            f"rank {dist.get_rank()} is not part of the process group that SequenceParallel was given; "
            "give each rank the group that it belongs to"
        )
    world, rank = dist.get_world_size(group), dist.get_rank(group)
    if world == 1:
        return None
    members = dist.get_process_group_ranks(group if group is not None else dist.group.WORLD)
    backend = dist.get_backend(group)
    patience = timedelta(seconds=timeout)

    def new(kind: str, purpose: str) -> dist.ProcessGroup:
        return dist.new_group(
            members,
            timeout=patience,
            backend=kind,
            use_local_synchronization=True,
            group_desc=f"ringattn_{purpose}",
        )

    upward, downward, control = new(backend, "upward"), new(backend, "downward"), new("gloo", "control")
    device = torch.device("cuda", torch.cuda.current_device()) if backend == "nccl" else torch.device("cpu")
    return Groups(rank, world, upward, downward, control, device)
