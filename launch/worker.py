"""One worker process: `torchrun ... -m ringattn.launch.worker RUN_FOLDER DIGEST`. People type `ringattn
train`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 2 with one sentence where a user can put something right."""
    folder, digest = arguments if arguments is not None else sys.argv[1:]
    from ringattn.launch.failure import one_sentence
    from ringattn.launch.job import work

    try:
        work(Path(folder), digest)
    except ValueError as error:
        print(f"ringattn: rank {os.environ['RANK']}: {one_sentence(error)}", file=sys.stderr, flush=True)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
