"""The command line of scripts/published.py."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from published import mesh_attention, ring_flash_attention, token_ring
from published.table import Table, told


def tables() -> list[Table]:
    return [ring_flash_attention.table(), token_ring.table(), mesh_attention.table()]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The simulator held against published measurements.")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    as_json = parser.parse_args(arguments).json
    made = tables()
    print(json.dumps([table.values() for table in made], indent=2) if as_json else told(made))
    return 0
