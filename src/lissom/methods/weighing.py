"""What pruning weighs against decomposing, told by the harm of whole networks.

Sensitivities are measured one unit at a time, and the search adds them up. Many units changed at
once harm more than their sum, and pruned ones more so than decomposed ones: on ResNet-20 at 0.4 of
its MACs the sum of a mostly pruned network was a sixth of its harm, of a decomposed one a third.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import astuple, dataclass, field
from typing import Any

from torch import nn

from lissom.errors import ModelError
from lissom.extension import ModelView
from lissom.methods.solving import Fractions, Solution, Solver
from lissom.methods.weights import WeightMath
from lissom.search.price import Configuration
from lissom.sensitivity.candidate import Candidate
from lissom.sensitivity.measure import Measured
from lissom.train.recalibrate import refresh_statistics

_STEP, _FINER = 4.0, 2.0  # between two weights that are tried
_MOST = 256.0


@dataclass(frozen=True, slots=True)
class WholeHarm:
    """Measures what a configuration as a whole does to the outputs, batch norms taken anew.

    Attributes:
        view: Network, calibration data, task, cache.
        weights: Builds its network.
        images: Calibration images.
    """

    view: ModelView
    weights: WeightMath
    images: int

    def __call__(self, configuration: Configuration) -> float:
        """Give the harm in the task's distance; infinite where the outputs are not finite."""
        view = self.view
        built: list[nn.Module] = []

        def network() -> nn.Module:
            if not built:
                model = self.weights.built(configuration)
                refresh_statistics(model, view.data.calibration, view.task, self.images)
                built.append(model)
            return built[0]

        measured = Measured(view.model, view.data.calibration, view.task, self.images, view.cache)
        recipe = f"{_named(configuration)} {self.weights.recipe}"
        whole = Candidate("the network", "all", 0.0, {}, network, recipe)
        try:
            return measured.harms([whole]).mean[0]
        except ModelError:
            return math.inf


@dataclass(frozen=True, slots=True)
class Weighed:
    """A solution, and how it was come by.

    Attributes:
        prune_weight: By what the harms of pruning were multiplied.
        fractions: Removed fractions at which the groups were formed.
        solution: What was found.
        harm: Of the whole network, measured.
    """

    prune_weight: float
    fractions: Fractions
    solution: Solution
    harm: float


@dataclass(slots=True)
class Weighing:
    """Finds the weight of pruning, and the fractions to group at, whose network harms least.

    From 1 the weight goes up by factors of 4 while the measured harm falls, else down, and then a
    factor of 2 to either side. The second and all later searches of a run, under other limits or
    with less on the menu, keep what the first one found.

    Attributes:
        harm: Measures a configuration.
        fractions: Removed fractions to group at first.
        rounds: How often groups are formed for each weight, at most.
        tried: All networks that were measured.
    """

    harm: Callable[[Configuration], float]
    fractions: tuple[float, ...]
    rounds: int
    tried: list[Weighed] = field(default_factory=list)

    def weighed(self, solver: Solver) -> tuple[Solver, Solution]:
        """Search with the weight that was found, or find it.

        Returns:
            The solver with the weighed harms, and its solution.

        Raises:
            BudgetError: Nothing on the menu is within the limits.
        """
        known = bool(self.tried)
        if not known:
            self._find(solver)
        best = self.best
        weighed = solver.weighing(best.prune_weight)
        return weighed, weighed.at(best.fractions) if known else best.solution

    @property
    def best(self) -> Weighed:
        """Give the one that harms least."""
        return min(self.tried, key=lambda one: one.harm)

    @property
    def summary(self) -> str:
        """Say what weighing has brought, in a line."""
        best, first = self.best, self.tried[0]
        return (
            f"whole networks: {len(self.tried)} measured, harm {best.harm:.3g}; pruning weighs "
            f"{best.prune_weight:g} (1: {first.harm:.3g})"
        )

    def facts(self, taken: Configuration) -> dict[str, Any]:
        """Give what was tried, and the harm of what was taken in the end, JSON-ready.

        Args:
            taken: A clock, or labels dealt out otherwise, may have led to another network than the
                best of those that were tried.
        """
        return {
            "prune_weight": self.best.prune_weight,
            "harm_measured": _finite(self.harm(taken)),
            "tried": [
                {
                    "prune_weight": one.prune_weight,
                    "summed": one.solution.harm,
                    "measured": _finite(one.harm),
                }
                for one in self.tried
            ],
        }

    def _find(self, solver: Solver) -> None:
        self._try(solver, 1.0)
        families = {family for unit in solver.menu.units for family in unit.families}
        if len(families) < 2:
            return
        for step in (_STEP, 1 / _STEP):
            weight = step
            while 1 / _MOST <= weight <= _MOST and self._helps(solver, weight):
                weight *= step
            if self.best.prune_weight != 1.0:
                break
        found = self.best.prune_weight
        for weight in (found * _FINER, found / _FINER):
            self._helps(solver, weight)

    def _helps(self, solver: Solver, weight: float) -> bool:
        before = self.best.harm
        self._try(solver, weight)
        return self.best.harm < before

    def _try(self, solver: Solver, weight: float) -> None:
        weighed = solver.weighing(weight)
        for fractions, solution in weighed.search(self.fractions, self.rounds):
            found = solver.menu.configuration(solution.items, solution.choice)
            self.tried.append(Weighed(weight, fractions, solution, self.harm(found)))


def _named(configuration: Configuration) -> str:
    """Name what is done, for the cache."""
    parts = (
        sorted(configuration.kept.items()),
        sorted((layer, astuple(one)) for layer, one in configuration.low_rank.items()),
        sorted(branch.name for branch in configuration.dropped),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def _finite(harm: float) -> float | None:
    return harm if math.isfinite(harm) else None
