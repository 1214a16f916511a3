"""Hybrid models of every mixer and ratio, trained small: recall and language loss over the share of full layers.

    python scripts/study.py                                                     # the mixers of the paper; hours
    python scripts/study.py --mixers gated_deltanet,hgrn2 --ratios pure,6:1,3:1,full --out runs/study
    python scripts/study.py --quick                                             # to see it work: minutes
    python scripts/study.py --out runs/study --report                           # tables and picture again

The study is "A Systematic Analysis of Hybrid Linear Attention" (arXiv 2507.06457), at a size for two CPU cores, or at
any other size and context by the options. A folder is filled up: points that it has are not trained again.
docs/hybrid-study.md says what is trained, and what was found.
"""

# The package `study` beside this file: Python prefers a package to a module of the same name.
from study.command import main

if __name__ == "__main__":
    raise SystemExit(main())
