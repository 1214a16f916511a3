"""Plain-text tables: columns under a rule, as wide as their longest cell; numbers to the right, words to the left."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ringattn.evaluation.perplexity import PositionReport


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[str] = ()) -> str:
    """Lines of right-aligned columns; those whose header is in `left` are left-aligned.

    >>> print(table(["part", "bytes"], [["weights", "8"], ["gradients", "16"]]))
         part  bytes
    ---------  -----
      weights      8
    gradients     16
    """
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"each row needs {len(header)} cells, got {len(row)}: {list(row)}.")
    widths = [max(len(line[column]) for line in [header, *rows]) for column in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    aligned = [
        [cell.ljust(width) if name in left else cell.rjust(width) for name, cell, width in zip(header, line, widths)]
        for line in lines
    ]
    return "\n".join("  ".join(line).rstrip() for line in aligned)


def position_table(report: PositionReport) -> str:
    """Loss and perplexity by position range, the bigram's beside them, and both means in the last row."""
    rows = [
        [
            f"{r.start:,} to {r.stop - 1:,}",
            f"{r.loss:.3f}",
            f"{r.perplexity:.2f}",
            f"{r.bigram_loss:.3f}",
            f"{r.bigram_perplexity:.2f}",
        ]
        for r in report.ranges
    ]
    rows.append(
        [
            "all",
            f"{report.loss:.3f}",
            f"{report.perplexity:.2f}",
            f"{report.bigram_loss:.3f}",
            f"{report.bigram_perplexity:.2f}",
        ]
    )
    return table(["position", "loss", "perplexity", "bigram loss", "bigram perplexity"], rows)


def verdict(report: PositionReport) -> str:
    """One sentence: is the model below the bigram model of the same text and vocabulary?"""
    place = "below" if report.loss < report.bigram_loss else "NOT below"
    return (
        f"held-out loss {report.loss:.3f} (perplexity {report.perplexity:.2f}), {place} the bigram model's "
        f"{report.bigram_loss:.3f} (perplexity {report.bigram_perplexity:.2f})"
    )
