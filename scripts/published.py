"""The simulator held against published measurements: what was measured, what is predicted, and where it is off.

    python scripts/published.py          # three tables, with the source of every constant
    python scripts/published.py --json   # the same for programs

It is a report: the exit status is 0 whatever the errors. docs/simulator.md discusses them.
"""

# The package `published` beside this file: Python prefers a package to a module of the same name.
from published.command import main

if __name__ == "__main__":
    raise SystemExit(main())
