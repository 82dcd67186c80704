"""What each family of decompositions loses at the same removed MACs, without any training.

    python benchmarks/decomposition.py --weights FILE --data-dir CIFAR10 [--out JSON]

Every kxk convolution but the first is decomposed alone by each family at the largest ranks that
leave a fraction of its MACs, and the relative error of its output is averaged over the layers.
Then all are decomposed at once, and the accuracy is that of the network as it is. ``least error``
takes per layer the family that errs least. A family whose smallest rank costs too much leaves the
layer whole; it is counted in ``layers``.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from revision import revision
from torch import Tensor, nn

from lissom.data.load import load_data
from lissom.data.options import DataOptions
from lissom.graph.capture import capture
from lissom.lowrank.families import BY_NAME
from lissom.methods.weights import WeightMath, plain_layers
from lissom.models.catalog import build_model
from lissom.models.weights import load_weights
from lissom.plan.build import apply_values, build
from lissom.plan.plan import Plan
from lissom.plan.predict import dense_cost
from lissom.search.price import Configuration, LowRank, Pricer
from lissom.sensitivity.statistics import input_covariances
from lissom.task import Classification, Data
from lissom.train.evaluate import evaluate

REMOVED = (0.5, 0.75)
_BATCH = DataOptions().eval_batch_size
JOINT = "tucker2, joint ranks"
LEAST = "least error"


@dataclass(frozen=True)
class Loss:
    """One decomposed layer: what it lost, and how."""

    ranks: LowRank
    error: float
    plain_error: float
    removed: float
    seconds: float


@dataclass(frozen=True)
class Row:
    """One line of the table, averaged over the layers."""

    family: str
    asked: float
    layers: int
    removed: float
    error: float
    plain_error: float
    seconds: float
    accuracy: float


class Bench:
    """A trained network with the statistics of its layers."""

    def __init__(self, network: str, weights: Path, data: Data, test_images: int) -> None:
        self.model = build_model(f"lissom:{network}").eval()
        load_weights(self.model, weights)
        task = Classification()
        self.test = list(islice(data.test, math.ceil(test_images / _BATCH)))
        self.graph = capture(self.model, (torch.zeros(1, 3, 32, 32),))
        self.pricer = Pricer(self.model, self.graph)
        names = [n for n in plain_layers(self.model, self.graph) if n in self.pricer.shapes]
        self.layers = [name for name in names[1:] if self.pricer.shapes[name].is_separable]
        covariances = input_covariances(self.model, self.layers, data.calibration, task, 2048)
        self.white = WeightMath(self.model, self.graph, covariances)
        self.plain = WeightMath(self.model, self.graph, covariances, whiten=False)

    def losses(self, name: str, asked: float) -> dict[str, Loss]:
        """Decompose every layer alone."""
        family = BY_NAME["tucker2" if name == JOINT else name]
        found = {}
        for layer in self.layers:
            shape, weight = self.pricer.shapes[layer], self.white.weight(layer)
            dense = dense_cost(shape).macs
            limit = int((1 - asked) * dense)
            covariance = self.white.covariances[layer] if name == JOINT else None
            start = time.process_time()
            ranks = (
                family.within(shape, limit, "macs")
                if covariance is None
                else family.best_within(shape, limit, "macs", weight, covariance)
            )
            if ranks is None:
                continue
            low_rank = LowRank(family.name, ranks)
            factored = self.white.decomposed(layer, low_rank)
            seconds = time.process_time() - start
            error = self.white.output_error(layer, factored)
            plain = self.plain.output_error(layer, self.plain.decomposed(layer, low_rank))
            removed = 1 - family.cost(shape, ranks).macs / dense
            found[layer] = Loss(low_rank, error, plain, removed, seconds)
        return found

    def accuracy(self, losses: Mapping[str, Loss]) -> float:
        """Decompose the layers at once and count on the test set, without any repair."""
        configuration = Configuration({}, {layer: loss.ranks for layer, loss in losses.items()})
        decisions, values = self.white.realise(configuration)
        network: nn.Module = build(self.model, Plan(decisions))
        state: dict[str, Tensor] = {**network.state_dict(), **values}
        apply_values(network, state)
        return evaluate(network, self.test, Classification(), device="cpu")


def row(bench: Bench, family: str, asked: float, losses: Mapping[str, Loss]) -> Row:
    """Average over the layers."""

    def mean(field: str) -> float:
        return sum(getattr(loss, field) for loss in losses.values()) / len(losses)

    means = {f: mean(f) for f in ("removed", "error", "plain_error", "seconds")}
    return Row(family, asked, len(losses), **means, accuracy=bench.accuracy(losses))


def rows(bench: Bench) -> list[Row]:
    """Measure every family at every fraction."""
    table: list[Row] = []
    for asked in REMOVED:
        by_family = {name: bench.losses(name, asked) for name in (*BY_NAME, JOINT)}
        table.extend(row(bench, name, asked, losses) for name, losses in by_family.items())
        least = {}
        for layer in bench.layers:
            offers = [losses[layer] for losses in by_family.values() if layer in losses]
            least[layer] = min(offers, key=lambda loss: loss.error)
        table.append(row(bench, LEAST, asked, least))
    return table


def markdown(table: list[Row]) -> str:
    """Write the table of the page."""
    lines = [
        "| family | asked | removed | error | unwhitened | layers | s / layer | accuracy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in table:
        cells = (
            f"{one.family} | {one.asked:.2f} | {one.removed:.3f} | {one.error:.4f} | "
            f"{one.plain_error:.4f} | {one.layers} | {one.seconds:.2f} | {one.accuracy:.2f}"
        )
        lines.append(f"| {cells} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--test-images", type=int, default=10_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    data = load_data("cifar10", options.data_dir).data
    table = rows(Bench(options.network, options.weights, data, options.test_images))
    print(markdown(table))
    if options.out is not None:
        about = {
            "network": options.network,
            "test_images": options.test_images,
            "commit": revision(),
            "machine": platform.machine(),
        }
        content = {**about, "rows": [asdict(one) for one in table]}
        options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
