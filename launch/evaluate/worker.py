"""One rank of `ringattn eval`, from its place in the world to its exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import timedelta

from ringattn.launch.evaluate.job import evaluate
from ringattn.launch.evaluate.settings import read
from ringattn.launch.rank import be_rank, together

# A rank may wait while others read a large model from a slow disk.
_PATIENCE = timedelta(minutes=30)


def take_part(words: Sequence[str], command: str) -> int:
    """Be the rank that the environment names. command: what a person typed, for the report."""
    return be_rank(
        lambda world: evaluate(together(lambda: read(words, world=world)), command=command), timeout=_PATIENCE
    )


if __name__ == "__main__":
    raise SystemExit(take_part(sys.argv[2:], sys.argv[1]))
