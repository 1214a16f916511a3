"""What the runtime itself takes: a step with next to nothing to compute and to send, in the real executor."""

from __future__ import annotations

import statistics
import time

import torch
from ringattn.launch.probe.wire import Small, Wire

from ringattn.attention import SequenceParallel
from ringattn.planner.cluster import Overhead

_TOKENS, _HEADS, _HEAD_DIM = 8, 1, 8


def overhead(wire: Wire, small: list[Small], launch: float, *, times: int) -> tuple[Overhead, float]:
    """Overhead, and seconds of latency between two ranks. launch: of the kernel, seconds. Collective.

    A ring over all ranks sends and receives one message a step. Of each call the executor's record says what was spent
    posting, waiting and computing; what is left belongs to the steps. A message's own time is what posting takes.
    """
    sp = SequenceParallel(schedule="ring", layout="contiguous", timeout=wire.timeout, agreement="first")
    device = wire.groups.device
    query, key, value = (torch.randn(1, _TOKENS, _HEADS, _HEAD_DIM, device=device) for _ in range(3))
    rests, posts = [], []
    for index in range(times + 2):
        wire.barrier()
        with torch.no_grad(), sp.record() as timeline:
            start = time.perf_counter()
            sp.attention(query, key, value, causal=False)
            wire.synchronize()
            spent = time.perf_counter() - start
        steps = 1 + max(event.step for event in timeline.events)
        known = timeline.seconds("post") + timeline.seconds("wait") + launch * steps
        if index >= 2:
            # The first calls compile the plan and make connections.
            rests.append((spent - known) / steps)
            posts.append(timeline.seconds("post") / (2 * (steps - 1)))
    step, message = (statistics.median(wire.gather(statistics.median(values))) for values in (rests, posts))
    latency = statistics.median(each.one_way for each in small)
    rendezvous = statistics.median(each.exchange - 2 * each.posting for each in small) - latency
    found = Overhead(step=max(0.0, step), message=message, rendezvous=max(0.0, rendezvous))
    return found, max(0.0, latency)
