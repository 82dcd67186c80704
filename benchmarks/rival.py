"""Torch-Pruning in our training loop: its choice of channels and its sparse training, our epochs.

Both sides start from the same weights and see the same images, teacher and seed, in the same number
of epochs, and their batch norms are recalibrated alike. A rival's peak learning rate is
``base_rate`` (0.004) or what its name says: compare it with ours at the same one.

As in Torch-Pruning's own script for CIFAR, channels fall in 400 small steps of one global ranking
without training between them, until the MACs (our counter's) meet the budget; nothing is rounded.
Only the inner channels of the residual blocks are offered: the stem, the blocks' outputs and the
classifier stay.
"""

from __future__ import annotations

import copy
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rival_pruning import CUT_AT, Dead, GroupNorm, Pressure, choose, pruner_of, remove
from torch import Tensor, nn

from lissom.artifacts import weights_content
from lissom.errors import BudgetError
from lissom.export.onnx import export_onnx
from lissom.graph.capture import capture
from lissom.measure.latency import Conditions, onnx_latency
from lissom.measure.memory import peak_activation_bytes
from lissom.pipeline.recipe_run import data_of, network_of
from lissom.recipe.recipe import Recipe
from lissom.relaxation.support import within
from lissom.report.provenance import gather_provenance
from lissom.sensitivity.statistics import loss_gradients
from lissom.task import Classification, Data
from lissom.train.checkpoint import Checkpoint
from lissom.train.evaluate import evaluate
from lissom.train.history import History
from lissom.train.loop import train
from lissom.train.recover import recover
from lissom.train.schedule import learning_rate
from lissom.train.settings import TrainSettings

_GRADIENT_IMAGES = 2048
PUBLISHED_PRESSURE = 5e-4
# Sum over the steps of the published sparse training of the learning rate: 391 steps an epoch, 60
# epochs at 0.01, 20 at 0.001, 20 at 0.0001.
PUBLISHED_RATES = 391 * (60 * 0.01 + 20 * 0.001 + 20 * 0.0001)


@dataclass(frozen=True)
class Variant:
    """How the rival trains.

    Attributes:
        sparse: ``no``: pruned by ``ranking``, then trained for all epochs; ``matched``: regularised
            until the cut, as strongly as keeps the published product of pressure and summed
            learning rates; ``published``: with the published pressure, in however few steps.
        rate_factor: Peak learning rate, as a multiple of ``base_rate``.
        ranking: Without sparse training, what channels are ranked by: ``magnitude``, or ``taylor``
            (the loss's gradients on 2,048 training images).
    """

    sparse: str = "no"
    rate_factor: float = 1.0
    ranking: str = "magnitude"


# What is good for a pair of factors is low for whole layers, so the rival has higher rates as well:
# 0.01, that of its published sparse training, and 0.02.
VARIANTS = {
    "magnitude": Variant(),
    "magnitude-0.01": Variant(rate_factor=2.5),
    "magnitude-0.02": Variant(rate_factor=5.0),
    "taylor": Variant(ranking="taylor"),
    "taylor-0.01": Variant(ranking="taylor", rate_factor=2.5),
    "group-norm": Variant("matched", rate_factor=2.5),
    "group-norm-published": Variant("published", rate_factor=2.5),
}


@dataclass(frozen=True)
class Contest:
    """What the rival trains on, and where it leaves its state."""

    model: nn.Module
    inputs: tuple[Tensor, ...]
    data: Data
    settings: TrainSettings
    limits: Mapping[str, int]
    folder: Path

    def score(self, model: nn.Module) -> float:
        """Give the accuracy on the test set; for the report alone."""
        return evaluate(model, self.data.test, Classification(), device=self.settings.device)

    def checkpoint(self, what: Any) -> Checkpoint:
        """Give where a training continues."""
        return Checkpoint(self.folder, json.dumps({"rival": what, "limits": dict(self.limits)}))


def train_rival(recipe: Recipe, name: str, folder: Path) -> dict[str, Any]:
    """Train one row, or continue it, and give its figures.

    Args:
        recipe: The network, data, budget and training.
        name: One of ``VARIANTS``.
        folder: For the state of the training.
    """
    start = time.perf_counter()
    variant = VARIANTS[name]
    loaded = data_of(recipe)
    given = recipe.train_settings()
    settings = replace(given, learning_rate=given.base_rate * variant.rate_factor)
    model = network_of(recipe.model)[0].eval()
    inputs = loaded.example_inputs
    cost = capture(model, inputs).cost
    limits = recipe.limits.limits(cost)
    contest = Contest(model, inputs, loaded.data, settings, limits, folder)
    by = _by_ranking if variant.sparse == "no" else _by_sparse_training
    network, history, facts = by(contest, variant)
    # The rest is of this call alone; a resumed training was longer than that.
    training = sum(record.seconds for record in history.epochs)
    seconds = {"training": training, "this call": time.perf_counter() - start}
    graph = capture(network, inputs)
    if not within(graph.cost, limits):
        raise BudgetError(f"{name}: {graph.cost}, expected at most {dict(limits)}")
    figures = _measured({"original": model, "compressed": network}, contest)
    figures["original"] |= {"params": cost.params, "macs": cost.macs}
    figures["compressed"] |= {"params": graph.cost.params, "macs": graph.cost.macs}
    figures["compressed"]["accuracy_raw"] = facts["accuracy_after_cut"]
    facts_of = ("device", "precision", "channels_last")
    machine = {name: getattr(history, name) for name in facts_of}
    source = asdict(gather_provenance(settings.seed, "", seconds, **machine))
    return {
        **figures,
        "rival": {**asdict(variant), **facts, "training": asdict(settings)},
        **{key: source[key] for key in ("seconds", "machine")},
        "versions": {**source["versions"], "torch-pruning": version("torch-pruning")},
    }


def _by_ranking(contest: Contest, variant: Variant) -> tuple[nn.Module, History, dict[str, Any]]:
    network = copy.deepcopy(contest.model)
    gradients = None
    if variant.ranking == "taylor":
        data = contest.data.calibration
        gradients = loss_gradients(network, data, Classification(), _GRADIENT_IMAGES)
    dead = choose(network, contest.inputs, contest.limits, variant.ranking, gradients)
    remove(network, pruner_of(network, contest.inputs, "magnitude").DG, dead)
    facts = _facts((contest.score(contest.model), contest.score(network)), dead)
    history = recover(
        network,
        contest.data,
        Classification(),
        contest.settings,
        teacher=contest.model,
        checkpoint=contest.checkpoint(asdict(variant)),
    )
    return network.eval(), history, facts


def _by_sparse_training(
    contest: Contest, variant: Variant
) -> tuple[nn.Module, History, dict[str, Any]]:
    network, settings = copy.deepcopy(contest.model), contest.settings
    strength = PUBLISHED_PRESSURE
    if variant.sparse == "matched":
        strength *= PUBLISHED_RATES / summed_rates(settings, len(contest.data.train))  # type: ignore[arg-type]
    pressure = Pressure(strength, settings.weight_decay)
    companion = GroupNorm(network, contest.inputs, pressure, contest.limits, contest.score)
    task, teacher = Classification(), contest.model
    history = train(
        network,
        contest.data,
        task,
        settings,
        teacher=teacher,
        checkpoint=contest.checkpoint(asdict(variant)),
        companion=companion,
    )
    remove(network.eval(), companion.pruner.DG, companion.dead)
    recover(network, contest.data, task, replace(settings, epochs=0), teacher=teacher)
    return (
        network.eval(),
        history,
        _facts(companion.accuracies, companion.dead) | {"reg": strength},
    )


def summed_rates(settings: TrainSettings, batches: int) -> float:
    """Sum the learning rate over the steps before the cut."""
    steps = settings.epochs * batches
    before = int(CUT_AT * steps)
    return sum(learning_rate(step, steps, settings) for step in range(before))


def _facts(accuracies: tuple[float, ...], dead: Dead) -> dict[str, Any]:
    before, after = accuracies
    return {
        "accuracy_before_cut": before,
        "accuracy_after_cut": after,
        "channels_removed": {name: len(numbers) for name, numbers in dead.items()},
    }


def _measured(networks: Mapping[str, nn.Module], contest: Contest) -> dict[str, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{name}.onnx" for name in networks}
        for name, network in networks.items():
            export_onnx(network, contest.inputs, files[name])
        latencies = onnx_latency(files, contest.inputs, Conditions())
    return {
        name: {
            "size_bytes": len(weights_content(network)),
            "latency_ms": latencies[name].median_ms,
            "peak_memory_bytes": peak_activation_bytes(network, contest.inputs),
            "accuracy": contest.score(network),
        }
        for name, network in networks.items()
    }
