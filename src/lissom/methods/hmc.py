"""HMC: low-rank decomposition and structured pruning, grouped by layer sensitivity.

Re-implementation from the abstract of Yang, Yu, Yang, Nie, Wang, PLOS ONE 18(10): e0292517, 2023.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lissom.errors import BudgetError, RecipeError
from lissom.extension import COUNTS, ModelView, Proposal
from lissom.graph.layers import ModelGraph
from lissom.methods.grouping import Curves, Rule, differences, labels_of, threshold
from lissom.methods.importance import cuts_of, importances
from lissom.methods.menu import FAMILIES
from lissom.methods.probes import Probing, Sensitivities
from lissom.methods.relax import relaxed
from lissom.methods.space import KEEP, Item, Menu, menu_of
from lissom.methods.units import Unit, units_of
from lissom.methods.weights import WeightMath, plain_layers
from lissom.plan.budget import Budget
from lissom.plan.cost import Cost
from lissom.plan.plan import Plan
from lissom.pruning.cut import Criterion
from lissom.search.lagrangian import Choice, solve
from lissom.search.price import Pricer
from lissom.sensitivity.statistics import input_covariances

VARIANTS = ("hmc", "nahc", "ahc")


@dataclass(frozen=True, slots=True)
class HmcSettings:
    """Free choices of the method.

    Attributes:
        variant: ``hmc`` (four groups), ``nahc`` (each unit pruned or decomposed, never both) or
            ``ahc`` (every unit pruned, and what remains decomposed).
        criterion: Channel importance: ``reconstruction`` (second order), ``l1``, ``l2``,
            ``group_l2``, ``fpgm``, ``bn_scale`` or ``taylor``.
        families: Decompositions on offer: ``tucker2``, ``channel_svd``.
        fractions: Removed fractions x at which sensitivity is measured: MACs removed anywhere /
            MACs of the unit's producers.
        images: Calibration images for the sensitivities.
        statistics_images: Calibration images for the input covariances.
        tau: Half width of the group ``both`` in nats of log harm; -1: a quarter of the median
            difference.
        keep_above: Units that harm more per MAC than this many times the median unit are kept
            whole whatever the budget; infinite: the search alone decides what stays whole.
        rounds: How often the groups are formed: first at ``fractions``, then again at the removed
            fractions that were solved for.
        whiten: Factorize against the input covariance (least output error) rather than the weight.
        rebuild: Rebuild what remains of a consumer's weight after its inputs are cut, in closed
            form.
    """

    variant: str = "hmc"
    criterion: str = "reconstruction"
    families: tuple[str, ...] = FAMILIES
    fractions: tuple[float, ...] = (0.25, 0.5, 0.75, 0.9)
    images: int = 512
    statistics_images: int = 2048
    tau: float = -1.0
    keep_above: float = math.inf
    rounds: int = 2
    whiten: bool = True
    rebuild: bool = True

    def __post_init__(self) -> None:
        for name, known in (("variant", VARIANTS), ("criterion", tuple(Criterion))):
            if getattr(self, name) not in known:
                raise RecipeError(
                    f"{name}={getattr(self, name)!r}: expected one of {', '.join(known)}"
                )
        unknown = set(self.families) - set(FAMILIES)
        if unknown or not self.families:
            raise RecipeError(
                f"families={list(self.families)}: expected some of {', '.join(FAMILIES)}"
            )
        if not self.fractions or not all(0 < x < 1 for x in self.fractions):
            raise RecipeError(f"fractions={list(self.fractions)}: expected numbers in (0, 1)")
        self._check_numbers()

    def _check_numbers(self) -> None:
        for name in ("images", "statistics_images", "rounds"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name}={getattr(self, name)}: expected at least 1")
        if math.isnan(self.tau):
            raise RecipeError("tau=nan: expected a number of nats, or -1 to choose it by itself")
        if not self.keep_above > 0:
            raise RecipeError(f"keep_above={self.keep_above}: expected more than 0")


@dataclass(frozen=True, slots=True)
class _Solution:
    labels: Mapping[str, str]
    difference: Mapping[str, float]
    tau: float
    items: tuple[Item, ...]
    choice: Choice
    harm: float

    @property
    def groups(self) -> dict[str, str]:
        """Give the labels as they came out: a unit that the search left whole is kept."""
        taken = {item.unit for item, option in zip(self.items, self.choice, strict=True) if option}
        return {name: label if name in taken else KEEP for name, label in self.labels.items()}


class Hmc:
    """Measures, groups, searches, factorizes.

    Attributes:
        name: ``hmc``; the variants are settings.
        trains: False: recovery comes after the decision.
        limits: MACs and parameters.
    """

    name = "hmc"
    trains = False
    limits = COUNTS

    def __init__(self, settings: HmcSettings | None = None) -> None:
        self.settings = settings or HmcSettings()

    def smallest(self, view: ModelView) -> Cost:
        """Give the smallest cost on the menu, per quantity, without any measurement."""
        units = units_of(view.graph, view.ignore)
        # Which channels stay makes no difference to what they cost, so any cheap criterion will do.
        cuts = cuts_of(units, importances(units, view, "l2", {}), view.round_to)
        pricer = Pricer(view.model, view.graph)
        menu = menu_of(units, cuts, pricer, self.settings.families, view.round_to)
        return menu.smallest(self.settings.variant)

    def plan(self, view: ModelView, budget: Budget) -> Proposal:
        """Decide by measured sensitivity.

        Raises:
            BudgetError: Nothing on the menu meets the budget.
        """
        settings = self.settings
        units = units_of(view.graph, view.ignore)
        weights = self._statistics(view)
        scores = importances(units, view, settings.criterion, weights.covariances)
        pricer = Pricer(view.model, view.graph)
        cuts = cuts_of(units, scores, view.round_to)
        menu = menu_of(units, cuts, pricer, settings.families, view.round_to)
        statistics = f"statistics_images={settings.statistics_images}"
        probing = Probing(view, scores, settings.families, weights, pricer, statistics)
        sensitivities = probing.measure(units, settings.fractions, settings.images)
        view.say(sensitivities.summary)
        solution = self._solve(menu, sensitivities, budget.limits(view.graph.cost))
        configuration = menu.configuration(solution.items, solution.choice)
        decisions, values = weights.realise(configuration)
        return Proposal(
            plan=Plan(decisions),
            values=values,
            predicted=pricer.price(configuration),
            labels=_layer_labels(view.graph, units, solution.groups),
            sensitivities=sensitivities.by_layer(units),
            evidence=_evidence(settings, solution, sensitivities, units),
        )

    def _statistics(self, view: ModelView) -> WeightMath:
        """Measure the input covariances; with them, weights can be factorized and rebuilt."""
        settings = self.settings
        covariances = input_covariances(
            view.model,
            plain_layers(view.model, view.graph),
            view.data.calibration,
            view.task,
            settings.statistics_images,
        )
        return WeightMath(view.model, view.graph, covariances, settings.whiten, settings.rebuild)

    def _solve(
        self, menu: Menu, sensitivities: Sensitivities, limits: Mapping[str, int]
    ) -> _Solution:
        """Group, search, and group again at the removed fractions that the search arrived at.

        Of the rounds the one with the least harm counts: a later one may have done worse.
        """
        fractions = {unit.name: self.settings.fractions for unit in menu.units}
        solutions: list[_Solution] = []
        for _ in range(self.settings.rounds):
            solution = self._round(menu, sensitivities, limits, fractions)
            if solutions and solution.labels == solutions[-1].labels:
                break
            solutions.append(solution)
            fractions = _solved_fractions(menu, solution, fractions)
        return min(solutions, key=lambda one: one.harm)

    def _round(
        self,
        menu: Menu,
        sensitivities: Sensitivities,
        limits: Mapping[str, int],
        fractions: Mapping[str, tuple[float, ...]],
    ) -> _Solution:
        curves = sensitivities.curves
        difference = differences(menu.units, curves, fractions, sensitivities.noise)
        per_mac = {
            unit.name: _mean_harm(curves[unit.name], fractions[unit.name]) / max(unit.cost.macs, 1)
            for unit in menu.units
        }
        half_width = None if self.settings.tau < 0 else self.settings.tau
        rule = Rule(self.settings.variant, half_width, self.settings.keep_above)
        labels = labels_of(menu.units, difference, per_mac, rule)
        tau = threshold(difference, rule)
        harm_of = _harm_of(menu, sensitivities)
        for wider in relaxed(menu, labels, difference, rule.variant, tuple(limits)):
            items = menu.items(wider)
            problem = menu.problem(items, harm_of, limits)
            choice = solve(problem)
            if choice is not None:
                harm = problem.harm(choice)
                return _Solution(wider, difference, tau, items, choice, harm)
        smallest = menu.smallest(self.settings.variant)
        reached = ", ".join(f"{name} {getattr(smallest, name):,}" for name in limits)
        asked = ", ".join(f"{name} {limit:,}" for name, limit in limits.items())
        raise BudgetError(
            f"{self.settings.variant} found no network within {asked}; the smallest on its menu "
            f"has {reached}. Raise the budget, use round_to=1, or another variant"
        )


def _layer_labels(
    graph: ModelGraph, units: Sequence[Unit], labels: Mapping[str, str]
) -> dict[str, str]:
    """Give each layer its unit's label; "" to layers that only follow others (norms, say)."""
    mine = {layer: labels[unit.name] for unit in units for layer in unit.members}
    alone = {layer.name: KEEP if layer.cost.macs else "" for layer in graph.layers}
    return {name: mine.get(name, label) for name, label in alone.items()}


def _harm_of(menu: Menu, sensitivities: Sensitivities) -> Callable[[Item, int], float]:
    """Give the harm of each option, read off the measured curves."""
    units = {unit.name: unit for unit in menu.units}

    def harm(item: Item, index: int) -> float:
        option = item.options[index]
        if isinstance(option, tuple):
            return sensitivities.prune_harm(units[item.unit], option)
        return sensitivities.rank_harm(item.layer, option)

    return harm


def _mean_harm(curves: Curves, fractions: tuple[float, ...]) -> float:
    means = [sum(curve(x) for x in fractions) / len(fractions) for curve in curves.values()]
    return min(means, default=0.0)


def _solved_fractions(
    menu: Menu, solution: _Solution, fractions: Mapping[str, tuple[float, ...]]
) -> dict[str, tuple[float, ...]]:
    """Give, per unit, the removed fraction that was solved for; untouched units keep theirs."""
    solved = dict(fractions)
    plain = menu.pricer.price(menu.configuration((), ())).macs
    for unit in menu.units:
        mine = [i for i, item in enumerate(solution.items) if item.unit == unit.name]
        if not any(solution.choice[i] for i in mine) or not unit.cost.macs:
            continue
        items = tuple(solution.items[i] for i in mine)
        alone = menu.configuration(items, tuple(solution.choice[i] for i in mine))
        removed = (plain - menu.pricer.price(alone).macs) / unit.cost.macs
        solved[unit.name] = (min(max(removed, 0.05), 0.95),)
    return solved


def _evidence(
    settings: HmcSettings,
    solution: _Solution,
    sensitivities: Sensitivities,
    units: tuple[Unit, ...],
) -> dict[str, object]:
    return {
        "variant": settings.variant,
        "criterion": settings.criterion,
        "tau": solution.tau,
        "noise": sensitivities.noise,
        "forwards": sensitivities.forwards,
        "units": [
            {
                "name": unit.name,
                "layers": list(unit.members),
                "label": solution.groups[unit.name],
                "difference": solution.difference.get(unit.name),
                "curves": {
                    family: curve.points
                    for family, curve in sensitivities.curves[unit.name].items()
                },
            }
            for unit in units
        ],
    }
