"""torch's elastic agent for ranks on this machine, without its report on a failure: the ranks have said what was wrong.

Started in place of `torch.distributed.run`, with the same arguments. The folder in which it keeps the workers' error
files goes with it.
"""

from __future__ import annotations

import logging
import signal
import sys
import tempfile
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of the first rank that failed; 1 where a signal ended it, which is said. 128 and its number after a
    signal to the agent, which has ended the ranks by then."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as run_agent

    for name in ("agent.server.api", "multiprocessing.api"):
        logging.getLogger(f"torch.distributed.elastic.{name}").setLevel(logging.CRITICAL)
    try:
        with tempfile.TemporaryDirectory(prefix="ringattn_agent_", ignore_cleanup_errors=True) as folder:
            run_agent(["--log-dir", folder, *(sys.argv[1:] if arguments is None else arguments)])
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        if failure.exitcode > 0:
            return int(failure.exitcode)
        name = signal.Signals(-failure.exitcode).name
        print(f"ringattn: rank {rank} was ended by {name} and said nothing", file=sys.stderr, flush=True)
        return 1
    except SignalException as ended:
        return 128 + int(ended.sigval)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
