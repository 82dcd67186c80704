"""How long HMC's sensitivities of a network take, and how well the cheap estimator ranks them.

    python benchmarks/sensitivities.py --weights FILE --data-dir CIFAR10 [--out JSON]

All units, pruned and decomposed, at HMC's four fractions and, unless --fractions-alone, with few
channels left; nothing remembered from earlier runs.
The input covariances and the curvatures are statistics of one pass each, timed apart.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from revision import revision

from lissom.data.load import load_data
from lissom.data.options import DataOptions
from lissom.extension import ModelView
from lissom.graph.capture import capture
from lissom.methods.estimators import estimator_of
from lissom.methods.hmc_settings import HmcSettings
from lissom.methods.importance import importances
from lissom.methods.probes import Probing
from lissom.methods.rank_rules import rank_rule
from lissom.methods.sensitivities import Sensitivities
from lissom.methods.units import units_of
from lissom.methods.weights import WeightMath, plain_layers
from lissom.models.catalog import build_model
from lissom.models.weights import load_weights
from lissom.search.price import Pricer
from lissom.sensitivity.agreement import agreement
from lissom.sensitivity.candidate import Estimator
from lissom.sensitivity.statistics import input_covariances
from lissom.task import Classification
from lissom.train.processes import Processes

T = TypeVar("T")
OTHERS = ("second_order", "first_order")
_BATCH = 50  # divides 2,000


class Stopwatch:
    """Keeps the seconds of what it runs, and prints them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, work: Callable[[], T]) -> T:
        """Run and time."""
        start = time.perf_counter()
        result = work()
        self.seconds[name] = round(time.perf_counter() - start, 1)
        print(f"{name}: {self.seconds[name]} s", flush=True)
        return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet56")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--fractions-alone", action="store_true", help="no further cuts")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    watch, settings = Stopwatch(), HmcSettings(images=options.images)
    view = _view(options)
    units = units_of(view.graph, frozenset())
    data, task = view.data.calibration, view.task
    layers = plain_layers(view.model, view.graph)
    covariances = watch(
        "input covariances",
        lambda: input_covariances(view.model, layers, data, task, options.images),
    )
    weights = WeightMath(view.model, view.graph, covariances)
    scores = watch(
        "channel importance",
        lambda: importances(units, view, settings.criterion, covariances),
    )
    rule = rank_rule(settings.ranks, weights)
    pricer = Pricer(view.model, view.graph)
    probing = Probing(view, scores, settings.offered, weights, pricer, rule=rule)
    if options.fractions_alone:
        probing = replace(probing, few=())

    def judged(estimator: Estimator) -> Sensitivities:
        return probing.measure(units, settings.fractions, estimator, {})

    measured = estimator_of("measured", view, options.images, Processes())
    found = {"measured": watch("measured", lambda: judged(measured))}
    for name in OTHERS:
        estimator = watch(
            f"{name}: its statistics",
            partial(estimator_of, name, view, options.images, Processes()),
        )
        found[name] = watch(name, partial(judged, estimator))
    ranks = {name: _agreement(found["measured"], found[name]) for name in OTHERS}
    forwards = found["measured"].forwards
    content = {
        "network": options.network,
        "images": options.images,
        "units": len(units),
        "fractions": settings.fractions,
        "few": probing.few,
        "families": settings.offered,
        "seconds": watch.seconds,
        "forwards": forwards,
        "forwards_ratio": round(forwards["run"] / forwards["naive"], 3),
        "rank_correlation": ranks,
        "threads": torch.get_num_threads(),
        "commit": revision(),
        "machine": platform.machine(),
    }
    print(json.dumps(content, indent=1))
    if options.out is not None:
        options.out.write_text(json.dumps(content, indent=1) + "\n")


def _view(options: argparse.Namespace) -> ModelView:
    sets = DataOptions(batch_size=_BATCH, calibration_images=options.images)
    loaded = load_data("cifar10", options.data_dir, sets)
    model = build_model(f"lissom:{options.network}")
    load_weights(model, options.weights)
    model.eval()
    graph = capture(model, loaded.example_inputs)
    return ModelView(model, graph, loaded.example_inputs, Classification(), loaded.data)


def _agreement(measured: Sensitivities, other: Sensitivities) -> dict[str, float | None]:
    families, ours, theirs = [], [], []
    for unit, curves in measured.curves.items():
        for family, curve in curves.items():
            points = other.curves[unit][family].points
            families += [family] * len(points)
            ours += [harm for _, harm in curve.points]
            theirs += [harm for _, harm in points]
    return dict(agreement(families, ours, theirs))


if __name__ == "__main__":
    main()
