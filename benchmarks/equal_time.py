"""HMC held to a latency against HMC held to MACs, at equal measured time.

Networks are compressed under budgets of MACs first, never slower than the original, as is the
default. The share of the original's time that each of them takes is the budget of the row beside
it. Rows that are already in the results file are skipped:

    python benchmarks/equal_time.py --data-dir DATA --weights-dir CHECKPOINTS
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench import DIGITS, Figures, arguments, compressed, run_rows
from row import Row

from lissom.artifacts import load_report
from lissom.errors import LissomError

NETWORKS = ("resnet56", "resnet20")
GROUPS = ("macs", "latency")
_BUDGETS = ("macs=0.7", "macs=0.5", "macs=0.35")
_EPOCHS = 5
_FASTER = 0.9995  # above it the limit would be written as all of the original's time


def rows_of(network: str) -> Iterator[Row]:
    """Yield the rows of one network; a row of latency names the budget of the one before it."""
    for budget in _BUDGETS[1:2] if network == DIGITS else _BUDGETS:
        for group in GROUPS:
            yield Row(group, network, "hmc", _EPOCHS, budget)


def at_equal_time(row: Row, runs: Path, seed: int) -> Row:
    """Give a row of latency the share of time that the network beside it takes.

    Args:
        row: Names the budget of MACs.
        runs: Folder of all runs.
        seed: Of both.

    Raises:
        LissomError: The network beside it is not there yet, or is not faster than the original.
    """
    folder = runs / replace(row, group="macs").name(seed)
    if not folder.is_dir():
        raise LissomError(f"{folder}: not there yet; run the row of the group macs first")
    ratio = load_report(folder).compressed.latency["ratio"]
    if ratio >= _FASTER:
        raise LissomError(f"{folder}: takes {ratio:.3f} of the original's time: nothing to compare")
    return replace(row, budget=f"latency={ratio:.3f}")


def main() -> None:
    run_rows(arguments(__doc__.splitlines()[0], "equal_time", NETWORKS, GROUPS), rows_of, _figures)


def _figures(given: argparse.Namespace, row: Row) -> Figures:
    if row.group == "latency":
        try:
            row = at_equal_time(row, given.runs, given.seed)
        except LissomError as error:
            print(error, file=sys.stderr)
            return None
    return compressed(given, row, "hmc", {"hmc": ("never_slower", "latency")}, flags=())


if __name__ == "__main__":
    main()
