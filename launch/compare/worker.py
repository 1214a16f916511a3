"""One rank of `ringattn compare`, from its place in the world to its exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ringattn.launch.compare.job import compare
from ringattn.launch.compare.settings import read
from ringattn.launch.compare.state_job import compare_states
from ringattn.launch.compare.state_settings import asks_for_states, read_states
from ringattn.launch.rank import be_rank, together


def take_part(words: Sequence[str], command: str) -> int:
    """Be the rank that the environment names. command: what a person typed, for the report."""
    if asks_for_states(words):
        return be_rank(lambda world: compare_states(together(lambda: read_states(words, world=world)), command=command))
    return be_rank(lambda world: compare(together(lambda: read(words, world=world)), command=command))


if __name__ == "__main__":
    raise SystemExit(take_part(sys.argv[2:], sys.argv[1]))
