"""Several hosts on one machine: network namespaces with shaped links between them, and any command run across them.

    python scripts/testbed.py run --hosts 4 --topology mesh --rate 200Mbit -- ringattn train trainer.steps=5
    python scripts/testbed.py run --hosts 4 --topology two-level --inside 2 --rate 400Mbit --between 100Mbit -- \\
        python my_script.py --flag
    python scripts/testbed.py check      # do namespaces work here, and if not, why
    python scripts/testbed.py measure    # how near real TCP flows come to the rates asked for
    python scripts/testbed.py clean      # remove what a killed run left behind

It needs Linux, root and iproute2, and nothing but Python's standard library. docs/testbed.md says what is shaped.
"""

# The package `testbed` beside this file: Python prefers a package to a module of the same name.
from testbed.command import main

if __name__ == "__main__":
    raise SystemExit(main())
