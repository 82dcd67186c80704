"""Latency: is anything ever slower, how well is it predicted, and what rounding does for a rival.

Networks with random weights on random images: what they take depends on their structure alone,
once batch norms fit their inputs (activations that vanish are denormal numbers, and slow). Each is
compressed without training, by HMC (second order) under a budget of MACs, in float32, and timed
beside the original; by Torch-Pruning, too, with channel counts as they come and in eights. Rows of
equal-time are held to the time that the network of never-slower takes, not to MACs. Rows that are
already in the results file are skipped:

    python benchmarks/latency.py --rows never-slower
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from revision import revision
from torch import nn

from lissom.errors import LissomError
from lissom.export.files import write_files
from lissom.export.runtime import RUNTIME
from lissom.graph.capture import capture
from lissom.measure.clock import RuntimeClock
from lissom.measure.latency import Conditions
from lissom.methods.hmc import Hmc, HmcSettings
from lissom.models.catalog import build_model
from lissom.pipeline.compress import compress
from lissom.pipeline.settings import Settings
from lissom.plan.budget import Budget
from lissom.task import Data
from lissom.train.machine import processor_name
from lissom.train.settings import TrainSettings

NETWORKS = {
    "lissom:resnet8": 32,
    "lissom:resnet20": 32,
    "lissom:resnet56": 32,
    "lissom:vgg16_bn": 32,
    "lissom:mobilenet_v2": 32,
    "torchvision:squeezenet1_1": 224,
    "torchvision:resnet18": 224,
    "torchvision:resnet34": 224,
    "torchvision:resnet50": 224,
    "torchvision:wide_resnet50_2": 224,
    "torchvision:resnext50_32x4d": 224,
    "torchvision:mobilenet_v2": 224,
    "torchvision:mobilenet_v3_small": 224,
    "torchvision:mobilenet_v3_large": 224,
    "torchvision:mnasnet1_0": 224,
    "torchvision:shufflenet_v2_x1_0": 224,
    "torchvision:efficientnet_b0": 224,
    "torchvision:regnet_y_400mf": 224,
    "torchvision:regnet_x_800mf": 224,
    "torchvision:googlenet": 224,
    "torchvision:densenet121": 224,
    "torchvision:vgg11_bn": 224,
    "torchvision:alexnet": 224,
    "timm:efficientnet_lite0": 224,
    "timm:repvgg_a0": 224,
}
"""Networks and the side of their inputs."""
EQUAL_TIME = "equal-time"
OURS = {"never-slower": False, EQUAL_TIME: False, "allowed": True}
"""Rows, and whether to take what costs time."""
RIVALS = {"torch-pruning": None, "torch-pruning-8": 8}
"""Rows of Torch-Pruning, and what its channel counts are multiples of."""
ROWS = (*OURS, *RIVALS)
_CHEAP = HmcSettings(
    estimator="second_order",
    compare=False,
    images=16,
    statistics_images=16,
    criterion="l2",
    rounds=1,
)
_FASTER = 0.98  # a limit closer to the original's own time would ask for nothing
_KEPT = ("ratio", "ratio_low", "ratio_high", "layers_ms", "predicted_ms", "prediction_error")


def random_data(side: int, images: int = 16) -> Data:
    """Give the same few random images as every set."""
    generator = torch.Generator().manual_seed(0)
    batch = (torch.randn(images, 3, side, side, generator=generator), torch.zeros(images).long())
    return Data(*[[batch]] * 4)


def network_of(name: str, data: Data) -> nn.Module:
    """Build a network whose batch norms have seen the images."""
    model = build_model(name)
    norms = [one for one in model.modules() if isinstance(one, nn.BatchNorm2d)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0  # the statistics are those of the last batch
    model.train()
    with torch.no_grad():
        for images, _ in data.train:
            model(images)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
    return model.eval()


def conditions(side: int) -> Conditions:
    """Give how networks of that size are timed."""
    return Conditions(runs=100 if side < 64 else 30)


def measure_rival(name: str, budget: str, row: str, cache: Path) -> dict[str, Any]:
    """Prune one network with Torch-Pruning, and time it; or say why not."""
    try:
        from rival_rounding import pruned  # a test dependency: other rows do without
    except ModuleNotFoundError as error:
        return {"refused": f"{error}; pip install torch-pruning==1.6.1"}
    torch.manual_seed(0)
    side = NETWORKS[name]
    model, inputs = network_of(name, random_data(side)), (torch.randn(1, 3, side, side),)
    start = time.perf_counter()
    before = capture(model, inputs).cost
    try:
        network = pruned(model, inputs, Budget.parse(budget).limits(before), RIVALS[row])
    except LissomError as error:
        return {"refused": str(error), "seconds": time.perf_counter() - start}
    clock = RuntimeClock(conditions(side), inputs, cache)
    ratio = clock.ratio(network, model)
    after_ms, before_ms = clock.milliseconds(network, model)
    return {
        "macs": [before.macs, capture(network, inputs).cost.macs],
        "latency_ms": [before_ms, after_ms],
        "ratio": ratio.median,
        "ratio_low": ratio.low,
        "ratio_high": ratio.high,
        "seconds": time.perf_counter() - start,
    }


def budget_of(row: str, name: str, budget: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Give the budget of a row: as given, or the time that the network of never-slower takes.

    Args:
        row: Its group.
        name: Of the network.
        budget: As given.
        rows: That are there.

    Raises:
        LissomError: The network of never-slower is not there, or hardly faster than the original.
    """
    if row != EQUAL_TIME:
        return budget
    found = [row for row in rows if row["key"] == ["never-slower", name, budget]]
    if not found or "ratio" not in found[0]:
        raise LissomError(f"{name}: there is no network of never-slower at {budget}; run it first")
    ratio = found[0]["ratio"]
    if ratio >= _FASTER:
        raise LissomError(f"{name}: never-slower takes {ratio:.3f} of its time: nothing to compare")
    return f"latency={ratio:.3f}"


def measure(name: str, budget: str, row: str, cache: Path) -> dict[str, Any]:
    """Compress one network and give what its report says of time; or why it was refused."""
    torch.manual_seed(0)
    side = NETWORKS[name]
    data = random_data(side)
    start = time.perf_counter()
    try:
        result = compress(
            network_of(name, data),
            (torch.randn(1, 3, side, side),),
            data=data,
            method=Hmc(_CHEAP),
            budget=budget,
            settings=Settings(
                recover=TrainSettings(epochs=0, device="cpu"),
                latency=conditions(side),
                cache=cache,
                allow_slower=OURS[row],
            ),
        )
    except LissomError as error:
        return {"refused": str(error), "seconds": time.perf_counter() - start}
    report = result.report
    latency, method = report.compressed.latency, report.evidence["method"]
    return {
        "asked": budget,
        "macs": [report.original.macs, report.compressed.macs],
        "latency_ms": [report.original.latency_ms, report.compressed.latency_ms],
        **{field: latency.get(field) for field in _KEPT},
        "left_out": len(method.get("never_slower", {}).get("left_out", ())),
        "harm": method["weighing"]["harm_measured"],
        "dropped": sorted(method["dropped"]),
        "merged": report.onnx["merged"],
        "warnings": list(report.warnings),
        "seconds": time.perf_counter() - start,
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Give medians over the networks that were compressed, and who was refused."""
    done = [row for row in rows if "ratio" in row]
    predicted = [row.get("prediction_error") for row in done]
    errors = [abs(error) for error in predicted if error is not None]
    return {
        "networks": len(rows),
        "refused": [row["network"] for row in rows if "refused" in row],
        "slower for certain": [row["network"] for row in done if row["ratio_low"] > 1.02],
        "median ratio": statistics.median(row["ratio"] for row in done) if done else None,
        "largest ratio": max((row["ratio"] for row in done), default=None),
        "median prediction error": statistics.median(errors) if errors else None,
    }


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--budget", default="macs=0.6")
    parser.add_argument("--cache", type=Path, default=Path("runs/latency"), help="of single times")
    parser.add_argument("--results", type=Path, default=Path("results/latency.json"))
    return parser.parse_args()


def main() -> None:
    """Measure what is not measured yet, and write each row as soon as it is there."""
    given = arguments()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    if given.results.exists():
        rows = json.loads(given.results.read_text())
    for row in given.rows:
        for name in given.networks:
            key = [row, name, given.budget]
            if any(done["key"] == key for done in rows):
                continue
            try:
                asked = budget_of(row, name, given.budget, rows)
            except LissomError as error:
                print(error, file=sys.stderr)
                continue
            how = measure_rival if row in RIVALS else measure
            found = how(name, asked, row, given.cache)
            origin = {"commit": revision(), "runtime": RUNTIME, "processor": processor_name()}
            rows.append({"key": key, "network": name, **found, **origin})
            write_files({given.results: (json.dumps(rows, indent=1) + "\n").encode()})
            print(json.dumps(rows[-1]), flush=True)
        mine = [one for one in rows if one["key"][0] == row and one["key"][2] == given.budget]
        print(row, json.dumps(summary(mine), indent=1), flush=True)


if __name__ == "__main__":
    main()
