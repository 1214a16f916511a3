#!/usr/bin/env bash
# Installs ringattn with the extras named, at the pinned versions: into the virtual environment that is active, or else
# into .venv, which it makes. Other scripts source it, so that the environment stays active: . scripts/setup.sh dev
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras="${1:-dev}"

if [[ -z "${VIRTUAL_ENV:-}" ]]; then
    if [[ ! -x .venv/bin/python ]]; then
        for python in python3 python3.13 python3.12 python3.11 python3.10; do
            if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2> /dev/null; then
                break
            fi
            python=""
        done
        if [[ -z "$python" ]]; then
            echo "ringattn needs Python 3.10 or newer, and none is on the PATH" >&2
            exit 2
        fi
        "$python" -m venv .venv
    fi
    # shellcheck disable=SC1091
    . .venv/bin/activate
fi

# Nothing is asked of the network again until the requirements change.
stamp="$VIRTUAL_ENV/.ringattn-$extras"
wanted="$PWD $(cat pyproject.toml constraints.txt | cksum)"
if [[ ! -f "$stamp" || "$(cat "$stamp")" != "$wanted" ]]; then
    echo "installing ringattn[$extras] into $VIRTUAL_ENV" >&2
    # torch first, alone: what needs it then finds it there. A CPU build of the pinned version is taken where pip is
    # offered one, because `+cpu` sorts above the plain version.
    python -m pip install --quiet -c constraints.txt torch
    python -m pip install --quiet -c constraints.txt -e ".[$extras]"
    echo "$wanted" > "$stamp"
fi
