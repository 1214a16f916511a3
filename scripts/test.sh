#!/usr/bin/env bash
# Style, types and tests, from a fresh clone: sets up, then checks. Arguments go to pytest: scripts/test.sh tests/schedule
set -euo pipefail
# shellcheck source=scripts/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh" dev
ruff check .
ruff format --check .
mypy
python -m pytest "$@"
