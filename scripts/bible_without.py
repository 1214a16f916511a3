"""The King James Bible without one of its books, which an evaluation reads and no training has seen.

python scripts/bible_without.py Genesis OUT.txt
"""

from __future__ import annotations

import sys
from pathlib import Path

from ringattn.data.text import king_james
from ringattn.evaluation.text import book_of

if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    text = king_james()
    Path(sys.argv[2]).write_text(text.replace(book_of(text, sys.argv[1]), ""), encoding="utf-8")
