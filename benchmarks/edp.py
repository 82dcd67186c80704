"""EDP on CIFAR-10: budgets, the published form, from scratch, ablation, against Torch-Pruning.

Rows that are already in the results file are skipped, so the script can be stopped and run again:

    python benchmarks/edp.py --data-dir DATA --weights-dir CHECKPOINTS --rows half rival

``--data digits`` runs the same rows, with fewer epochs, on a small network that it trains first.
"""

from __future__ import annotations

import argparse
import sys

from bench import SETTINGS, Figures, arguments, compressed, options, run_rows
from edp_rows import GROUPS, rows_of
from row import Row

from lissom.errors import LissomError
from lissom.recipe.read import parse_override, read_recipe

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
    if row.group != "rival":
        return compressed(given, row, "edp", {"edp": _LEARNED})
    try:
        from rival import train_rival  # a test dependency: other rows do without
    except ModuleNotFoundError as error:
        print(f"{error}; these rows need it: pip install torch-pruning==1.6.1", file=sys.stderr)
        return None
    places = [(place, value) for _flag, place, value in options(given, row)]
    settings = map(parse_override, (*SETTINGS[given.data], *row.settings))
    recipe = read_recipe(None, [*places, *settings])
    try:
        return train_rival(recipe, row.variant, given.runs / row.name(given.seed))
    except LissomError as error:
        print(error, file=sys.stderr)
        return None


if __name__ == "__main__":
    main()
