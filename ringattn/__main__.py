"""`python -m ringattn` and `torchrun -m ringattn`: the same entry as the `ringattn` command."""

from ringattn.launch.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
