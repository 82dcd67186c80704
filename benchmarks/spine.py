"""HMC and its variants at half of the MACs on CIFAR-10: one row per network and variant.

Rows that are already in the results file are skipped, so the script can be stopped and run again:

    python benchmarks/spine.py --data-dir DATA --weights-dir CHECKPOINTS
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from revision import revision

from lissom.artifacts import load_report
from lissom.export.files import write_files

WEIGHTS = {
    "resnet8": "cifar10_resnet8_mlperf.safetensors",
    "resnet20": "cifar10_resnet20.safetensors",
    "resnet56": "cifar10_resnet56.safetensors",
}
VARIANTS = ("hmc", "nahc", "ahc")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="holds cifar-10-batches-py")
    parser.add_argument("--weights-dir", type=Path, required=True, help="holds the checkpoints")
    parser.add_argument("--results", type=Path, default=Path("results/spine.json"))
    parser.add_argument("--runs", type=Path, default=Path("runs/spine"), help="folder of the runs")
    parser.add_argument("--networks", nargs="+", default=list(WEIGHTS), choices=list(WEIGHTS))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--budget", default="macs=0.5")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if given.results.exists():
        rows = json.loads(given.results.read_text())
    for network in given.networks:
        for variant in given.variants:
            key = [network, variant, given.budget, given.epochs, given.seed]
            if any(row["key"] == key for row in rows):
                continue
            rows.append(_row(given, key))
            write_files({given.results: (json.dumps(rows, indent=1) + "\n").encode()})
            print(json.dumps(rows[-1]))


def _row(given: argparse.Namespace, key: list[Any]) -> dict[str, Any]:
    network, variant, budget, epochs, seed = key
    out = given.runs / "-".join([network, variant, budget.replace("=", ""), f"e{epochs}s{seed}"])
    command = [sys.executable, "-m", "lissom.cli", "compress"]
    command += [
        "--model",
        f"lissom:{network}",
        "--weights",
        str(given.weights_dir / WEIGHTS[network]),
    ]
    command += ["--data", "cifar10", "--data-dir", str(given.data_dir), "--method", variant]
    command += ["--budget", budget, "--epochs", str(epochs), "--seed", str(seed)]
    command += ["--out", str(out), "--resume"]
    if not (out / "report.json").exists():
        subprocess.run(command, check=True)
    report = load_report(out).to_dict()
    names = ("params", "macs", "size_bytes", "latency_ms", "accuracy")
    return {
        "key": key,
        "original": {name: report["original"][name] for name in names},
        "compressed": {name: report["compressed"][name] for name in (*names, "accuracy_raw")},
        "seconds": report["provenance"]["seconds"],
        "machine": report["provenance"]["machine"],
        "versions": report["provenance"]["versions"],
        "commit": revision(),
    }


if __name__ == "__main__":
    main()
