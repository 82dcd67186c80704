"""EDP on CIFAR-10: budgets, the published form, from scratch, ablation, against Torch-Pruning.

Rows that are already in the results file are skipped, so the script can be stopped and run again:

    python benchmarks/edp.py --data-dir DATA --weights-dir CHECKPOINTS --rows half rival

``--data digits`` runs the same rows, with fewer epochs, on a small network that it trains first.
"""

from __future__ import annotations

import argparse

from bench import Figures, arguments, compressed_or_rival, run_rows
from edp_rows import GROUPS, rows_of
from row import Row

NETWORKS = ("resnet20", "resnet56")
_LEARNED = (
    "mode",
    "accuracy_before_merge",
    "accuracy_after_merge",
    "merged",
    "channels_removed",
    "trajectory",
)


def main() -> None:
    run_rows(arguments(__doc__.splitlines()[0], "edp", NETWORKS, GROUPS), rows_of, _figures)


def _figures(given: argparse.Namespace, row: Row) -> Figures:
    return compressed_or_rival(given, row, "edp", {"edp": _LEARNED})


if __name__ == "__main__":
    main()
