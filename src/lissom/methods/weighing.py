"""What pruning, and dropping, weigh against decomposing, told by the harm of whole networks.

Sensitivities are measured one unit at a time, and the search adds them up. Many units changed at
once harm more than their sum, and pruned ones more so than decomposed ones: on ResNet-20 at 0.4 of
its MACs the sum of a mostly pruned network was a sixth of its harm, of a decomposed one a third.
Residual branches are measured together, batch norms taken anew, and so look too cheap.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from lissom.errors import ModelError
from lissom.extension import ModelView
from lissom.methods.sensitivities import HarmWeights
from lissom.methods.solving import Fractions, Solution, Solver
from lissom.methods.weights import WeightMath
from lissom.progress import meter
from lissom.search.price import Configuration
from lissom.sensitivity.measure import Measured
from lissom.sensitivity.whole import WholeNetworks
from lissom.task import Task
from lissom.train.recalibrate import refresh_statistics

_LADDER = (4.0, 16.0, 64.0, 256.0, 1 / 4, 1 / 16)
_FINER = 2.0  # to either side of the best


class WholeHarm:
    """Measures what a configuration as a whole does to the outputs, batch norms taken anew."""

    def __init__(self, view: ModelView, weights: WeightMath, images: int, recipe: str) -> None:
        """Take the calibration batches, once: all networks are judged on the same images.

        Args:
            view: Network, calibration data, task, cache.
            weights: Builds networks.
            images: Calibration images, at least one batch.
            recipe: What the new weights follow from beside the network, for the cache.
        """
        self._weights, self._task, self._recipe = weights, view.task, recipe
        self._batches = list(_first(view.data.calibration, view.task, images))
        measured = Measured(view.model, self._batches, view.task, images, view.cache)
        self._networks = WholeNetworks(measured)
        self._known: dict[str, float] = {}

    def __call__(self, configuration: Configuration) -> float:
        """Give the harm in the task's distance; infinite where the outputs are not finite."""
        name = _named(configuration)
        if name not in self._known:
            self._known[name] = self._measure(name, configuration)
        return self._known[name]

    def _measure(self, name: str, configuration: Configuration) -> float:
        def network() -> nn.Module:
            model = self._weights.built(configuration)
            refresh_statistics(model, _samples_together(self._batches, self._task))
            return model

        try:
            return self._networks.harm(f"{name} {self._recipe}", network)
        except ModelError:
            return math.inf


@dataclass(frozen=True, slots=True)
class Weighed:
    """A solution, and how it was come by.

    Attributes:
        weights: By what harms were multiplied.
        fractions: Removed fractions at which the groups were formed.
        solution: What was found.
        summed: Sum of its units' harms, none of them multiplied.
        harm: Of the whole network, measured.
    """

    weights: HarmWeights
    fractions: Fractions
    solution: Solution
    summed: float
    harm: float


@dataclass(slots=True)
class Weighing:
    """Finds the weights, and the fractions to group at, whose network harms least.

    Powers of 4 for the weight of pruning, then for that of dropping branches, and then a factor of
    2 to either side of the best for each. The second and all later searches of a run, under other
    limits or with less on the menu, keep what the first one found.

    Attributes:
        harm: Measures a configuration.
        fractions: Removed fractions to group at first.
        rounds: How often groups are formed for each weight, at most.
        tried: All solutions that were judged.
    """

    harm: Callable[[Configuration], float]
    fractions: tuple[float, ...]
    rounds: int
    tried: list[Weighed] = field(default_factory=list)

    def weighed(self, solver: Solver) -> tuple[Solver, Solution]:
        """Search with the weights that were found, or find them.

        Returns:
            The solver with the weighed harms, and its solution.

        Raises:
            BudgetError: Nothing on the menu is within the limits.
        """
        known = bool(self.tried)
        if not known:
            self._find(solver)
        best = self.best
        weighed = solver.weighing(best.weights)
        return weighed, weighed.at(best.fractions) if known else best.solution

    @property
    def best(self) -> Weighed:
        """Give the one that harms least; of several the first."""
        return min(self.tried, key=lambda one: one.harm)

    def summary(self, taken: Configuration) -> str:
        """Say what weighing has brought, in a line.

        Args:
            taken: As for ``facts``.
        """
        plain, best = HarmWeights(), self.best.weights
        alone = min(one.harm for one in self.tried if one.weights == plain)
        dropping = f", dropping {best.drop:g}" if best.drop != 1 else ""
        return (
            f"harm of the whole network: {self.harm(taken):.3g}; pruning weighs {best.prune:g}"
            f"{dropping} (weighing 1, {alone:.3g})"
        )

    def facts(self, taken: Configuration) -> dict[str, Any]:
        """Give what was tried, and the harm of what was taken in the end, JSON-ready.

        Args:
            taken: A clock, or labels dealt out otherwise, may have led to another network than the
                best of those that were tried.
        """
        return {
            "prune_weight": self.best.weights.prune,
            "drop_weight": self.best.weights.drop,
            "harm_measured": _finite(self.harm(taken)),
            "tried": [
                {
                    "prune_weight": one.weights.prune,
                    "drop_weight": one.weights.drop,
                    "summed": one.summed,
                    "measured": _finite(one.harm),
                }
                for one in self.tried
            ],
        }

    def _find(self, solver: Solver) -> None:
        self._try(solver, HarmWeights())
        families = {family for unit in solver.menu.units for family in unit.families}
        weighed = ["prune"] if len(families) > 1 else []
        weighed += ["drop"] if solver.menu.branches else []
        with meter("weighing", len(weighed) * (len(_LADDER) + 2)) as bar:
            for which in weighed:
                for weight in _LADDER:
                    self._try(solver, replace(self.best.weights, **{which: weight}))
                    bar.advance(1, which)
            for which in reversed(weighed):
                found = getattr(self.best.weights, which)
                for weight in (found * _FINER, found / _FINER):
                    self._try(solver, replace(self.best.weights, **{which: weight}))
                    bar.advance(1, which)

    def _try(self, solver: Solver, weights: HarmWeights) -> None:
        for fractions, solution in solver.weighing(weights).search(self.fractions, self.rounds):
            found = solver.menu.configuration(solution.items, solution.choice)
            summed = solver.harm(solution)
            self.tried.append(Weighed(weights, fractions, solution, summed, self.harm(found)))


def _first(batches: Iterable[Any], task: Task, images: int) -> Iterator[Any]:
    """Yield so many images' batches, at least one, each as large as the first."""
    seen, shape = 0, None
    for batch in batches:
        first = task.inputs(batch)[0]
        shape = shape or first.shape
        if first.shape == shape:
            seen += len(first)
            yield batch
        if seen >= images:
            return


def _samples_together(batches: Iterable[Any], task: Task) -> list[tuple[Tensor, ...]]:
    """Give the batches' inputs, joined where a batch norm might see one value per channel."""
    inputs = [task.inputs(batch) for batch in batches]
    if len(inputs[0][0]) > 1:
        return inputs
    return [tuple(torch.cat(parts) for parts in zip(*inputs, strict=True))]


def _named(configuration: Configuration) -> str:
    """Name what is done, for the cache."""
    parts = (
        sorted(configuration.kept.items()),
        sorted((layer, astuple(one)) for layer, one in configuration.low_rank.items()),
        sorted(branch.layers for branch in configuration.dropped),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def _finite(harm: float) -> float | None:
    return harm if math.isfinite(harm) else None
