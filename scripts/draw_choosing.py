"""Draw docs/choosing-a-schedule.md: its pictures and its tables, all predicted by the planner.

    python scripts/draw_choosing.py                # write what differs
    python scripts/draw_choosing.py --search       # search for the best schedules anew first: ten minutes

A table stands between `<!-- table: NAME -->` and `<!-- end -->`. A test checks that the committed document is what this
makes.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from choosing.found import calls, searched, write
from choosing.pictures import pictures
from choosing.tables import tables

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "choosing-a-schedule.md"
PICTURES = ROOT / "docs" / "pictures" / "choosing"

_TABLE = re.compile(r"(?P<start><!-- table: (?P<name>[\w-]+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)


def main() -> None:
    """Write every file that differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", action="store_true", help="search for the best schedules anew first")
    if parser.parse_args().search:
        search()
    for path, text in drawn().items():
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")


def search() -> None:
    found = []
    for call in calls():
        found += searched(call)
        print(f"{call.cluster}, {call.ranks} ranks, {call.tokens} tokens, {call.key_heads} key heads", flush=True)
    write(found)


def drawn() -> dict[Path, str]:
    """Every file that this script makes, or fills in, and what should be in it."""
    made = tables()
    text = DOCUMENT.read_text(encoding="utf-8")
    files = {DOCUMENT: _TABLE.sub(lambda found: f"{found['start']}\n{made[found['name']]}\n{found['end']}", text)}
    return files | {PICTURES / name: picture for name, picture in pictures().items()}


if __name__ == "__main__":
    main()
