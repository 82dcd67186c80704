"""EDP on CIFAR-10: budgets, the published form, from scratch, ablation, against Torch-Pruning.

Rows that are already in the results file are skipped, so the script can be stopped and run again:

    python benchmarks/edp.py --data-dir DATA --weights-dir CHECKPOINTS --rows half rival

``--data digits`` runs the same rows, with fewer epochs, on a small network that it trains first.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from edp_rows import GROUPS, Row, rows_of
from revision import revision

from lissom.artifacts import load_report, weights_content
from lissom.data.load import load_data
from lissom.errors import LissomError
from lissom.export.files import write_files
from lissom.models.catalog import build_model
from lissom.recipe.read import parse_override, read_recipe
from lissom.recipe.recipe import Recipe
from lissom.task import Classification
from lissom.train.loop import train
from lissom.train.settings import TrainSettings

WEIGHTS = {
    "resnet20": "cifar10_resnet20.safetensors",
    "resnet56": "cifar10_resnet56.safetensors",
}
DIGITS = "digits_resnet"
_DIGITS_ORIGINAL = TrainSettings(epochs=20, learning_rate=0.1, distillation=0.0, warmup_steps=50)
_SETTINGS = {"cifar10": (), "digits": ("recover.learning_rate=0.02", "recover.warmup_steps=20")}
_FIGURES = ("params", "macs", "size_bytes", "latency_ms", "peak_memory_bytes", "accuracy")
_LEARNED = (
    "mode",
    "accuracy_before_merge",
    "accuracy_after_merge",
    "merged",
    "channels_removed",
    "trajectory",
)


def main() -> None:
    given = _arguments()
    rows: list[dict[str, Any]] = []
    if given.results.exists():
        rows = json.loads(given.results.read_text())
    failed: list[str] = []
    for network in given.networks:
        for row in rows_of(network):
            key = row.key(given.seed)
            if not _chosen(given, row) or any(done["key"] == key for done in rows):
                continue
            figures = _figures(given, row)
            if figures is None:
                failed.append(row.name(given.seed))
                continue
            rows.append({"key": key, "seed": given.seed, **figures, "commit": revision()})
            write_files({given.results: (json.dumps(rows, indent=1) + "\n").encode()})
            print(json.dumps(rows[-1]))
    if failed:
        sys.exit(f"failed, and not in {given.results}: {', '.join(failed)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="cifar10", choices=list(_SETTINGS))
    parser.add_argument("--data-dir", type=Path, help="holds cifar-10-batches-py")
    parser.add_argument("--weights-dir", type=Path, help="holds the checkpoints")
    parser.add_argument("--results", type=Path, default=Path("results/edp.json"))
    parser.add_argument("--runs", type=Path, default=Path("runs/edp"), help="folder of the runs")
    parser.add_argument("--networks", nargs="+", choices=[*WEIGHTS, DIGITS], help="default: all")
    parser.add_argument("--rows", nargs="+", default=list(GROUPS), choices=GROUPS)
    parser.add_argument("--variants", nargs="+", help="only these rows of the chosen groups")
    parser.add_argument("--epochs", type=int, nargs="+", help="only rows of so many epochs")
    parser.add_argument("--long", action="store_true", help="the rows that need a GPU, too")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    known = [DIGITS] if given.data == "digits" else list(WEIGHTS)
    given.networks = given.networks or known
    if not set(given.networks) <= set(known):
        parser.error(f"--networks: with --data {given.data}, expected {' '.join(known)}")
    if given.data == "cifar10" and (given.data_dir is None or given.weights_dir is None):
        parser.error("--data-dir and --weights-dir: missing; give the folders of CIFAR-10")
    return given


def _chosen(given: argparse.Namespace, row: Row) -> bool:
    if row.length == "long" and not given.long:
        return False
    wanted = row.group in given.rows and row.variant in (given.variants or [row.variant])
    return wanted and row.epochs in (given.epochs or [row.epochs])


def _figures(given: argparse.Namespace, row: Row) -> dict[str, Any] | None:
    """Train one row and give its figures, or None if it failed."""
    if row.group != "rival":
        return _ours(given, row)
    try:
        from rival import train_rival  # a test dependency: other rows do without
    except ModuleNotFoundError as error:
        print(f"{error}; these rows need it: pip install torch-pruning==1.6.1", file=sys.stderr)
        return None
    try:
        return train_rival(_recipe(given, row), row.variant, given.runs / row.name(given.seed))
    except LissomError as error:
        print(error, file=sys.stderr)
        return None


def _ours(given: argparse.Namespace, row: Row) -> dict[str, Any] | None:
    out = given.runs / row.name(given.seed)
    command = [sys.executable, "-m", "lissom.cli", "compress", "--method", "edp"]
    for flag, _place, value in _options(given, row):
        command += [flag, str(value)]
    for text in (*_SETTINGS[given.data], *row.settings):
        command += ["--set", text]
    command += ["--out", str(out), "--resume"]
    if not (out / "report.json").exists() and subprocess.run(command, check=False).returncode:
        return None
    report = load_report(out).to_dict()
    compressed = {name: report["compressed"][name] for name in (*_FIGURES, "accuracy_raw")}
    return {
        "original": {name: report["original"][name] for name in _FIGURES},
        "compressed": compressed,
        "edp": {name: report["edp"][name] for name in _LEARNED},
        "seconds": report["provenance"]["seconds"],
        "machine": report["provenance"]["machine"],
        "versions": report["provenance"]["versions"],
    }


def _recipe(given: argparse.Namespace, row: Row) -> Recipe:
    settings = map(parse_override, (*_SETTINGS[given.data], *row.settings))
    places = [(place, value) for _flag, place, value in _options(given, row)]
    return read_recipe(None, [*places, *settings])


def _options(given: argparse.Namespace, row: Row) -> list[tuple[str, str, Any]]:
    """Give what both our runs and the rival's are asked for: flag, place in a recipe, value."""
    options: list[tuple[str, str, Any]] = [
        ("--model", "model", f"lissom:{row.network}"),
        ("--data", "data", given.data),
        ("--budget", "budget", row.budget),
        ("--epochs", "recover.epochs", row.epochs),
        ("--seed", "seed", given.seed),
    ]
    if given.data_dir is not None:
        options.append(("--data-dir", "data.dir", str(given.data_dir)))
    if row.weights == "trained":
        options.append(("--weights", "model.weights", str(_weights(given, row))))
    return options


def _weights(given: argparse.Namespace, row: Row) -> Path:
    if row.network in WEIGHTS:
        path: Path = given.weights_dir / WEIGHTS[row.network]
        return path
    return _digits_original(given.runs / f"{DIGITS}.safetensors")


def _digits_original(path: Path) -> Path:
    """Train the small network once."""
    if not path.exists():
        torch.manual_seed(0)
        model = build_model(f"lissom:{DIGITS}")
        train(model, load_data("digits").data, Classification(), _DIGITS_ORIGINAL)
        write_files({path: weights_content(model)})
    return path


if __name__ == "__main__":
    main()
