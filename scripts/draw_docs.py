"""Draw what the documents show: the pictures of schedules, and the output of each `ringattn schedules` command.

    python scripts/draw_docs.py

A ```console block of README.md or docs/ whose first line is `$ ringattn schedules ...` is filled with what that command
prints; a ```python block whose first line is `# name.py` is a file that such a command may name. A test checks that
the committed documents are what this makes.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import tempfile
from pathlib import Path

from ringattn.launch.schedules import run

from ringattn.report.schedule_picture import draw_maps
from ringattn.schedule import make_schedule
from ringattn.schedule.value import Shape

ROOT = Path(__file__).resolve().parent.parent
PICTURES = "docs/pictures"

# Each picture, by what `ringattn schedules show` takes.
SHOWN = {
    "tokenring.svg": "tokenring --full",
    "tokenring-backward.svg": "tokenring --full --backward",
    "tokenring-causal.svg": "tokenring",
    "ring.svg": "ring --full",
    "ring-backward.svg": "ring --full --backward",
    "tile.svg": "tile --full",
    "ulysses.svg": "ulysses --full",
    "doublering.svg": "doublering --full",
}

# The schedules whose maps stand side by side: a rank takes rows, columns, a rectangle, heads, heads and rows.
MAPPED = ("ring", "biring", "tokenring", "tile", "ulysses", "usp")

_CONSOLE = re.compile(r"^```console\n\$ ringattn schedules ?(?P<words>.*)\n(?P<output>[^`]*)```$", re.MULTILINE)
_FILE = re.compile(r"^```python\n# (?P<name>\w+\.py)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def main() -> None:
    """Write every file that differs."""
    for path, text in drawn().items():
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")


def drawn() -> dict[Path, str]:
    """Every file that this script makes, or fills in, and what should be in it."""
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, words in SHOWN.items():
            picture = Path(folder) / name
            printed_by(f"show {words} --svg {picture}")
            files[ROOT / PICTURES / name] = picture.read_text(encoding="utf-8")
    shape = Shape(4, query_heads=4, key_heads=4)
    files[ROOT / PICTURES / "maps.svg"] = draw_maps([(n, make_schedule(n, shape)) for n in MAPPED], across=3)
    for path in documents():
        files[path] = filled(path.read_text(encoding="utf-8"))
    return files


def documents() -> list[Path]:
    """The documents that a user reads."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def files_in(text: str) -> dict[str, str]:
    """The files that a document shows, by name."""
    return {found["name"]: found["code"] for found in _FILE.finditer(text)}


def filled(text: str) -> str:
    """A document with the output of its commands."""
    with tempfile.TemporaryDirectory() as folder:
        for name, code in files_in(text).items():
            (Path(folder) / name).write_text(code, encoding="utf-8")
        with _inside(folder):
            return _CONSOLE.sub(_fill, text)


def printed_by(words: str) -> str:
    """What `ringattn schedules WORDS` prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        run(shlex.split(words))
    return out.getvalue()


def _fill(found: re.Match[str]) -> str:
    words = found["words"]
    return f"```console\n$ {'ringattn schedules ' + words}".rstrip() + f"\n{printed_by(words)}```"


@contextlib.contextmanager
def _inside(folder: str):
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


if __name__ == "__main__":
    main()
