"""Layouts whose chunks are runs of tokens, the odd ones among them."""

from ringattn.sequence.layout import Layout, make_layout
from ringattn.sequence.mask import Mask


def cut(name: str, world: int) -> Layout:
    """A layout by its name, or one with chunks of no tokens and ranks that have none: `short`, `fewer tokens than
    ranks`, `shuffled`."""
    if name == "short":
        return make_layout("zigzag", 2 * world - 1, world)
    if name == "fewer tokens than ranks":
        return make_layout("contiguous", world - 1, world)
    if name == "shuffled":
        # Runs of 3, 0, 1, 5, 2 and so on tokens, dealt out backwards.
        sizes = [(3, 0, 1, 5, 2)[number % 5] for number in range(3 * world)]
        starts = [sum(sizes[:number]) for number in range(3 * world)]
        runs = [range(start, start + size) for start, size in zip(starts, sizes)][::-1]
        dealt = [sorted(runs[rank::world], key=lambda run: run.start) for rank in range(world)]
        return Layout("shuffled", sum(sizes), world, tuple(run for of_rank in dealt for run in of_rank))
    return make_layout(name, 41, world, Mask(True, None, (0, 11, 40, 41)) if name == "balanced" else None)
