"""Adds the columns of printed tables up again."""

import re

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_MARKS = ("yes", "no", "–")
_NUMBER = re.compile(r"([\d.]+)([kMG]?)")


def read(text: str) -> tuple[float, float]:
    """Give the value of 2.304k, and by how much rounding can have moved it."""
    match = _NUMBER.fullmatch(text)
    assert match is not None, f"not a printed count: {text!r}"
    unit = _UNITS[match[2]]
    decimals = len(match[1].partition(".")[2])
    return float(match[1]) * unit, (0.5 * 10**-decimals * unit if match[2] else 0.0)


def _without_marks(line: str) -> str:
    words = line.split()
    while words and words[-1] in _MARKS:
        words.pop()
    return " ".join(words)


def check_sums(text: str, columns: int) -> int:
    """Add up the last ``columns`` columns of the table that ends in a row called network.

    Every cell is a count, or before→after; marks behind them are skipped. Gives the number of rows
    that were added.
    """
    lines = [_without_marks(line) for line in text.splitlines()]
    end = next(i for i, line in enumerate(lines) if line.startswith("network "))
    start = max(i for i in range(end) if lines[i].startswith("───"))
    rows = [line.split()[-columns:] for line in lines[start + 1 : end] if line.strip()]
    for column, total in enumerate(lines[end].split()[-columns:]):
        for side in (0, -1):
            cells = [read(row[column].split("→")[side]) for row in rows]
            printed, slack = read(total.split("→")[side])
            added, loose = (sum(parts) for parts in zip(*cells, strict=True))
            assert abs(added - printed) <= slack + loose, (
                f"column {column}: rows add up to {added}, printed is {printed}"
            )
    return len(rows)
