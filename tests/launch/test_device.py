"""What a rank computes on."""

import os

from ranks import run_ranks
from ringattn.launch.device import shared_threads


def threads_of_rank(rank):
    return shared_threads()


def test_ranks_of_one_machine_share_its_cores_evenly():
    world = 2
    assert run_ranks(world, threads_of_rank, threads=True) == [max(1, len(os.sched_getaffinity(0)) // world)] * world
