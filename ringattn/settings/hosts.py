"""Which hosts a run is on, from `launcher.hosts` or a hostfile in the format of DeepSpeed and MPI."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_LINE = re.compile(r"(?P<name>\S+)\s+slots=(?P<slots>\d+)(\s+#.*)?")
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^\s:,\[\]]+)(:(?P<slots>\d+))?")


@dataclass(frozen=True)
class Host:
    """A host by the name or address that the others reach it by, and the number of its ranks."""

    name: str
    slots: int

    def __str__(self) -> str:
        return f"{f'[{self.name}]' if ':' in self.name else self.name}:{self.slots}"


def parse_hosts(text: str, *, slots: int) -> tuple[Host, ...]:
    """`host1,host2` or `host1:8,host2:4`; a host without a number has `slots` ranks.

    Raises:
        ValueError: a word that is no host.
    """
    found = []
    for word in text.split(","):
        match = _HOST.fullmatch(word.strip())
        if match is None or match["slots"] == "0":
            raise ValueError(
                f"launcher.hosts names hosts with commas, each a name or an address and perhaps :ranks, got "
                f"{word.strip()!r} in {text!r}: write for example launcher.hosts=host1,host2 or host1:8,host2:4."
            )
        found.append(Host(match["name"].strip("[]"), int(match["slots"] or slots)))
    return tuple(found)


def read_hostfile(path: Path) -> tuple[Host, ...]:
    """The hosts of a file with lines `host slots=8`; empty lines and those that begin with # say nothing.

    Raises:
        ValueError: the file cannot be read, a line says something else, a host is named twice, or there is none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"launcher.hostfile is a text file with a line `host slots=8` for each host, and {path} cannot be read "
            f"({getattr(error, 'strerror', None) or error}): give the path of one."
        ) from None
    found: dict[str, Host] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.strip().startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None or int(match["slots"]) == 0:
            raise ValueError(
                f"a line of a hostfile is `host slots=8`, with 1 slot or more, but line {number} of {path} is "
                f"{line.strip()!r}: write for example {line.split()[0]} slots=8."
            )
        if match["name"] in found:
            raise ValueError(
                f"a hostfile names each host once, but line {number} of {path} names {match['name']} again: give it "
                "one line with all its slots."
            )
        found[match["name"]] = Host(match["name"], int(match["slots"]))
    if not found:
        raise ValueError(f"a hostfile has a line `host slots=8` for each host, and {path} has none: write one.")
    return tuple(found.values())
