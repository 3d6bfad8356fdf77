# SPDX-License-Identifier: Apache-2.0
"""Summaries of measurements: quantiles, and a table of them."""

from collections.abc import Iterable, Sequence


def quantile(values: Iterable[float], share: float) -> float:
    """Return the smallest measured value that this share of the values does not exceed."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("nothing was measured")
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: Iterable[float]) -> float:
    """Return the median."""
    return quantile(values, 0.5)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, the first column aligned left, the others right."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(head))]
    texts = [
        "| "
        + " | ".join(
            cell.ljust(w) if not n else cell.rjust(w) for n, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in lines
    ]
    rule = "|" + "|".join("-" * (w + 2) if not n else "-" * (w + 1) + ":" for n, w in enumerate(widths)) + "|"
    return "\n".join([texts[0], rule, *texts[1:]])
