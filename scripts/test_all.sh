#!/usr/bin/env bash
# As scripts/test.sh, with the slow tests.
exec "$(dirname "${BASH_SOURCE[0]}")/test.sh" -m "slow or not slow" "$@"
