"""Several hosts inside a test, from `scripts/testbed`; `needs_hosts` skips where they cannot be built, and says why."""

import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
if str(SCRIPTS) not in sys.path:
    sys.path.append(str(SCRIPTS))

from testbed import Kind, Link, Outcome, Testbed, Topology, clean, obstacle, parse_rate  # noqa: E402

_REASON = obstacle()
needs_hosts = pytest.mark.skipif(_REASON is not None, reason=f"no test bed here: {_REASON}")

__all__ = [
    "SCRIPTS",
    "Kind",
    "Link",
    "Outcome",
    "Testbed",
    "Topology",
    "clean",
    "needs_hosts",
    "obstacle",
    "parse_rate",
]
