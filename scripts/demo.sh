#!/usr/bin/env bash
# The main job, from a fresh clone: sets up, then trains a small LLaMA on the King James Bible, 8,192 tokens a
# sequence over two processes under TokenRing. Overrides are those of `ringattn train`: scripts/demo.sh schedule=ring
set -euo pipefail
# shellcheck source=scripts/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh" demo
exec ringattn train "$@"
