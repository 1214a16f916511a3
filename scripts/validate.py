"""Predictions held against measurements on real shaped links: topologies x shapes x schedules, then four tables.

    python scripts/validate.py                                  # all cases; half an hour on two cores
    python scripts/validate.py --quick                          # one shape on each topology
    python scripts/validate.py --cases 'mesh-*' --out FOLDER
    python scripts/validate.py --replay FOLDER                  # predict what was measured once more
    python scripts/validate.py --replay FOLDER --store SMALL    # the same, and keep what a replay needs

It needs Linux, root and iproute2, as scripts/testbed.py does; a replay needs none of them. It is a report: the exit
status is 0 whatever the errors. docs/validation.md discusses them.
"""

# The package `validate` beside this file: Python prefers a package to a module of the same name.
from validate.command import main

if __name__ == "__main__":
    raise SystemExit(main())
