"""What somebody who wrote an unknown name probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], *, cutoff: float = 0.5) -> str | None:
    """The known name that is most like `word`, where one is at least `cutoff` like it (0 to 1)."""
    return next(iter(difflib.get_close_matches(str(word), list(known), n=1, cutoff=cutoff)), None)


def suggest(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'zigzag'?)`, or nothing where no known name is near."""
    near = nearest(name, known)
    return f" (did you mean {near!r}?)" if near else ""
