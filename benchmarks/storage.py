"""AJC on CIFAR-10: accuracy against the bytes of the real file, without training, ablation.

Rows that are already in the results file are skipped, so the script can be stopped and run again:

    python benchmarks/storage.py --data-dir DATA --weights-dir CHECKPOINTS --rows goal curve

``--data digits`` runs the same rows, with fewer epochs, on a small network that it trains first.
The coder alone is in storage_coder.py.
"""

from __future__ import annotations

import argparse

from bench import Figures, arguments, compressed, run_rows
from row import Row
from storage_rows import GROUPS, rows_of

NETWORKS = ("resnet8", "resnet20", "resnet56", "vgg16_bn", "resnet18", "mobilenet_v2")
_LEARNED = (
    "accuracy_before_hardening",
    "held_out_drop",
    "layers",
    "recalibration",
    "trajectory",
)
_STORED = ("original_bytes", "bytes", "ratios", "by_kind", "estimates", "baselines")


def main() -> None:
    run_rows(arguments(__doc__.splitlines()[0], "storage", NETWORKS, GROUPS), rows_of, _figures)


def _figures(given: argparse.Namespace, row: Row) -> Figures:
    return compressed(given, row, "ajc", {"ajc": _LEARNED, "storage": _STORED})


if __name__ == "__main__":
    main()
