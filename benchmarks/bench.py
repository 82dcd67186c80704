"""What every benchmark of trainings does: choose rows, run them, keep their figures."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from revision import revision
from row import Row

from lissom.artifacts import load_report, weights_content
from lissom.data.load import load_data
from lissom.errors import LissomError
from lissom.export.files import write_files
from lissom.models.catalog import build_model
from lissom.recipe.read import parse_override, read_recipe
from lissom.task import Classification
from lissom.train.loop import train
from lissom.train.settings import TrainSettings

WEIGHTS = {
    "resnet8": "cifar10_resnet8_mlperf.safetensors",
    "resnet20": "cifar10_resnet20.safetensors",
    "resnet56": "cifar10_resnet56.safetensors",
    "vgg16_bn": "cifar10_vgg16_bn.safetensors",
    "resnet18": "cifar10_resnet18.safetensors",
    "mobilenet_v2": "cifar10_mobilenet_v2.safetensors",
}
DIGITS = "digits_resnet"
FIGURES = ("params", "macs", "size_bytes", "latency_ms", "peak_memory_bytes", "accuracy")
TIME = ("ratio", "ratio_low", "ratio_high", "predicted_ms", "prediction_error")
SETTINGS = {"cifar10": (), "digits": ("recover.learning_rate=0.02", "recover.warmup_steps=20")}
_DIGITS_ORIGINAL = TrainSettings(epochs=20, learning_rate=0.1, distillation=0.0, warmup_steps=50)
Figures = dict[str, Any] | None


def arguments(
    about: str, name: str, networks: Sequence[str], groups: Sequence[str]
) -> argparse.Namespace:
    """Read the command line.

    Args:
        about: First line of the help.
        name: Of the results file and of the runs' folder.
        networks: Of CIFAR-10 that there are rows of.
        groups: Of rows.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--data", default="cifar10", choices=list(SETTINGS))
    parser.add_argument("--data-dir", type=Path, help="holds cifar-10-batches-py")
    parser.add_argument("--weights-dir", type=Path, help="holds the checkpoints")
    parser.add_argument("--results", type=Path, default=Path(f"results/{name}.json"))
    parser.add_argument("--runs", type=Path, default=Path("runs") / name, help="their folder")
    parser.add_argument("--networks", nargs="+", choices=[*networks, DIGITS], help="default: all")
    parser.add_argument("--rows", nargs="+", default=list(groups), choices=groups)
    parser.add_argument("--variants", nargs="+", help="only these rows of the chosen groups")
    parser.add_argument("--epochs", type=int, nargs="+", help="only rows of so many epochs")
    parser.add_argument("--budgets", nargs="+", help="only rows of these budgets")
    parser.add_argument("--long", action="store_true", help="the rows that need a GPU, too")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    known = [DIGITS] if given.data == "digits" else list(networks)
    given.networks = given.networks or known
    if not set(given.networks) <= set(known):
        parser.error(f"--networks: with --data {given.data}, expected {' '.join(known)}")
    if given.data == "cifar10" and (given.data_dir is None or given.weights_dir is None):
        parser.error("--data-dir and --weights-dir: missing; give the folders of CIFAR-10")
    return given


def run_rows(
    given: argparse.Namespace,
    rows_of: Callable[[str], Iterator[Row]],
    figures: Callable[[argparse.Namespace, Row], Figures],
) -> None:
    """Run the rows that are chosen and not done yet, and keep each as soon as it is there.

    Args:
        given: As ``arguments`` read it.
        rows_of: Gives the rows of a network.
        figures: Trains one row; None: it failed.
    """
    rows: list[dict[str, Any]] = []
    if given.results.exists():
        rows = json.loads(given.results.read_text())
    failed: list[str] = []
    every = [row for network in given.networks for row in rows_of(network)]
    chosen = [row for row in every if _chosen(given, row)]
    if not chosen:
        known = sorted({(row.group, row.variant, row.epochs, row.budget) for row in every})
        sys.exit(
            "no row is of these groups, variants, epochs and budgets; of these networks there are "
            + "; ".join(" ".join(map(str, one)) for one in known)
        )
    for row in chosen:
        key = row.key(given.seed)
        if any(done["key"] == key for done in rows):
            continue
        found = figures(given, row)
        if found is None:
            failed.append(row.name(given.seed))
            continue
        rows.append({"key": key, "seed": given.seed, **found, "commit": revision()})
        write_files({given.results: (json.dumps(rows, indent=1) + "\n").encode()})
        print(json.dumps(rows[-1]))
    if failed:
        sys.exit(f"failed, and not in {given.results}: {', '.join(failed)}")


def compressed(
    given: argparse.Namespace,
    row: Row,
    method: str,
    sections: Mapping[str, Sequence[str]],
    *,
    flags: Sequence[str] = ("--allow-slower",),
) -> Figures:
    """Run ``lissom compress`` on a row, or continue it, and give the figures of its report.

    Args:
        given: As ``arguments`` read it.
        row: What to run.
        method: For ``--method``.
        sections: Of report.json, with the fields to be kept.
        flags: Further ones. Rows are compared at equal MACs as a rule: what costs time is no reason
            to leave a decision out there.
    """
    out = given.runs / row.name(given.seed)
    command = [sys.executable, "-m", "lissom.cli", "compress", "--method", method]
    for flag, _place, value in options(given, row):
        command += [flag, str(value)]
    for text in (*SETTINGS[given.data], *row.settings):
        command += ["--set", text]
    command += ["--out", str(out), "--resume", *flags]
    if not (out / "report.json").exists() and subprocess.run(command, check=False).returncode:
        return None
    report = load_report(out).to_dict()
    learned = report["evidence"]["method"]  # of a stage that did not train
    names = (*FIGURES, "accuracy_raw")
    return {
        "original": {name: report["original"][name] for name in FIGURES},
        "compressed": {name: report["compressed"][name] for name in names},
        **{
            section: {name: report.get(section, learned).get(name) for name in fields}
            for section, fields in sections.items()
        },
        "time": {name: report["compressed"]["latency"].get(name) for name in TIME},
        "peak_rate": report["evidence"]["recovery"][-1].get("peak_rate"),
        "seconds": report["provenance"]["seconds"],
        "machine": report["provenance"]["machine"],
        "versions": report["provenance"]["versions"],
    }


def compressed_or_rival(
    given: argparse.Namespace,
    row: Row,
    method: str,
    sections: Mapping[str, Sequence[str]],
    *,
    flags: Sequence[str] = ("--allow-slower",),
) -> Figures:
    """Run a row of ours (``compressed``), or one of the group ``rival`` with Torch-Pruning."""
    if row.group != "rival":
        return compressed(given, row, method, sections, flags=flags)
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


def options(given: argparse.Namespace, row: Row) -> list[tuple[str, str, Any]]:
    """Give what a row is asked for: flag, place in a recipe, value."""
    asked: list[tuple[str, str, Any]] = [
        ("--model", "model", f"lissom:{row.network}"),
        ("--data", "data", given.data),
        ("--budget", "budget", row.budget),
        ("--epochs", "recover.epochs", row.epochs),
        ("--seed", "seed", given.seed),
    ]
    if given.data_dir is not None:
        asked.append(("--data-dir", "data.dir", str(given.data_dir)))
    if row.weights == "trained":
        asked.append(("--weights", "model.weights", str(_weights(given, row))))
    return asked


def _chosen(given: argparse.Namespace, row: Row) -> bool:
    if row.length == "long" and not given.long:
        return False
    wanted = row.group in given.rows and row.variant in (given.variants or [row.variant])
    wanted &= row.budget in (given.budgets or [row.budget])
    return wanted and row.epochs in (given.epochs or [row.epochs])


def _weights(given: argparse.Namespace, row: Row) -> Path:
    if row.network in WEIGHTS:
        path: Path = given.weights_dir / WEIGHTS[row.network]
        return path
    if row.network != DIGITS:
        raise ValueError(f"{row.network}: has no checkpoint; expected one of {', '.join(WEIGHTS)}")
    return _digits_original(given.runs / f"{DIGITS}.safetensors")


def _digits_original(path: Path) -> Path:
    """Train the small network once."""
    if not path.exists():
        torch.manual_seed(0)
        model = build_model(f"lissom:{DIGITS}")
        train(model, load_data("digits").data, Classification(), _DIGITS_ORIGINAL)
        write_files({path: weights_content(model)})
    return path
