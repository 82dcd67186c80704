"""HMC on CIFAR-10: does the grouping do the work; goals; against Torch-Pruning.

Rows that are already in the results file are skipped, so the script can be stopped and run again;
``--seed`` makes a row of its own:

    python benchmarks/hmc.py --data-dir DATA --weights-dir CHECKPOINTS --rows ablation --seed 0

``--data digits`` runs the ablation, on a small network that it trains first.
"""

from __future__ import annotations

import argparse

from bench import Figures, arguments, compressed_or_rival, run_rows
from hmc_rows import GROUPS, rows_of
from row import Row

NETWORKS = ("resnet20", "resnet56")
_DECIDED = (
    "variant",
    "groups",
    "dealt_otherwise",
    "rule",
    "borders",
    "noise",
    "forwards",
    "agreement",
    "units",
)


def main() -> None:
    run_rows(arguments(__doc__.splitlines()[0], "hmc", NETWORKS, GROUPS), rows_of, _figures)


def _figures(given: argparse.Namespace, row: Row) -> Figures:
    # At equal MACs as a rule: what costs time is no reason to leave a decision out there.
    flags = () if row.group == "never-slower" else ("--allow-slower",)
    return compressed_or_rival(given, row, "hmc", {"hmc": _DECIDED}, flags=flags)


if __name__ == "__main__":
    main()
