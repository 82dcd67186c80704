"""From sensitivities to a choice: group, search under the limits, and group again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from lissom.errors import BudgetError
from lissom.methods.grouping import (
    Curves,
    Difference,
    Rule,
    borders,
    control_labels,
    differences,
    labels_of,
)
from lissom.methods.menu import DropOption
from lissom.methods.relax import relaxed
from lissom.methods.sensitivities import HarmWeights, Sensitivities
from lissom.methods.space import BOTH, DECOMPOSE, KEEP, PRUNE, Item, Menu
from lissom.search.lagrangian import Choice, solve

Fractions = Mapping[str, tuple[float, ...]]  # per unit the removed fractions to judge it at


@dataclass(frozen=True, slots=True)
class Solution:
    """Labels, and the choice that was found under them.

    Attributes:
        labels: Per unit its group, as the search took it.
        asked: The same before groups were widened to reach the budget.
        difference: Per unit with both families its d.
        borders: Least and greatest d of ``both``.
        items: What was decided.
        choice: One option per item.
        harm: Summed harm of the choice.
    """

    labels: Mapping[str, str]
    asked: Mapping[str, str]
    difference: Mapping[str, Difference]
    borders: tuple[float, float]
    items: tuple[Item, ...]
    choice: Choice
    harm: float

    @property
    def groups(self) -> dict[str, str]:
        """Give the labels as they came out: a unit that the search left whole is kept.

        Of ``both`` it is one alone where the search did only that.
        """
        done: dict[str, set[str]] = {}
        for item, option in zip(self.items, self.choice, strict=True):
            if option and item.branch is None:  # a branch may have a unit's name
                done.setdefault(item.unit, set()).add(DECOMPOSE if item.layer else PRUNE)
        labels = dict(self.labels)
        for name, label in self.labels.items():
            kinds = done.get(name, set())
            if not kinds:
                labels[name] = KEEP
            elif label == BOTH and len(kinds) == 1:
                labels[name] = next(iter(kinds))
        return labels

    @property
    def widened(self) -> tuple[str, ...]:
        """Name the units whose group had to be changed to reach the budget."""
        return tuple(name for name, label in self.labels.items() if label != self.asked[name])


@dataclass(frozen=True, slots=True)
class Solver:
    """Finds labels and ratios under limits.

    Attributes:
        menu: What could be done.
        sensitivities: What it harms.
        limits: Per quantity the most that may remain.
        rule: How differences of sensitivity become labels.
    """

    menu: Menu
    sensitivities: Sensitivities
    limits: Mapping[str, int]
    rule: Rule

    def solve(self, fractions: tuple[float, ...], rounds: int) -> Solution:
        """Group, search, and group again at the removed fractions that the search arrived at.

        Of the rounds the one with the least harm counts: a later one may have done worse.

        Args:
            fractions: Removed fractions to group at first.
            rounds: How often the groups are formed at most.

        Raises:
            BudgetError: Nothing on the menu is within the limits.
        """
        found = (solution for _, solution in self.search(fractions, rounds))
        return min(found, key=lambda one: one.harm)

    def search(
        self, fractions: tuple[float, ...], rounds: int
    ) -> Iterator[tuple[Fractions, Solution]]:
        """Give the solution of each round until the groups stay, and the fractions of its groups.

        Args:
            fractions: Removed fractions to group at first.
            rounds: How often the groups are formed at most.

        Raises:
            BudgetError: Nothing on the menu is within the limits.
        """
        at: Fractions = {unit.name: fractions for unit in self.menu.units}
        labels: Mapping[str, str] | None = None
        for _ in range(rounds):
            solution = self.at(at)
            if solution.labels == labels:
                break
            yield at, solution
            labels = solution.labels
            at = solved_fractions(self.menu, solution, at)

    def harm(self, solution: Solution) -> float:
        """Give the summed harm of a solution by these sensitivities."""
        harm_of = _harm_of(self.menu, self.sensitivities)
        taken = zip(solution.items, solution.choice, strict=True)
        return sum(harm_of(item, option - 1) for item, option in taken if option)

    def weighing(self, weights: HarmWeights) -> Solver:
        """Give the same with harms multiplied."""
        return replace(self, sensitivities=self.sensitivities.weighing(weights))

    def control(self, measured: Solution, groups: str, seed: int) -> Solution:
        """Search again, with the labels of a solution dealt out otherwise.

        Args:
            measured: From ``solve``.
            groups: ``random`` or ``inverted``.
            seed: For ``random``.

        Raises:
            BudgetError: Nothing on the menu is within the limits.
        """
        labels = control_labels(self.menu.units, measured.labels, groups, seed)
        return self._under(labels, measured.difference, measured.borders)

    def at(self, fractions: Fractions) -> Solution:
        """Group at given fractions, and search.

        Raises:
            BudgetError: Nothing on the menu is within the limits.
        """
        units, curves = self.menu.units, self.sensitivities.curves
        difference = differences(units, curves, fractions, self.sensitivities.noise)
        per_mac = {
            unit.name: _mean_harm(curves[unit.name], fractions[unit.name]) / max(unit.cost.macs, 1)
            for unit in units
        }
        labels = labels_of(units, difference, per_mac, self.rule)
        limits = borders([d.value for d in difference.values()], self.rule)
        return self._under(labels, difference, limits)

    def _under(
        self,
        labels: Mapping[str, str],
        difference: Mapping[str, Difference],
        limits: tuple[float, float],
    ) -> Solution:
        harm_of = _harm_of(self.menu, self.sensitivities)
        variant, quantities = self.rule.variant, tuple(self.limits)
        for wider in relaxed(self.menu, labels, difference, variant, quantities):
            items = self.menu.items(wider)
            problem = self.menu.problem(items, harm_of, self.limits)
            choice = solve(problem)
            if choice is not None:
                harm = problem.harm(choice)
                return Solution(wider, labels, difference, limits, items, choice, harm)
        least = {name: self.menu.least(variant, name) for name in self.limits}
        reached, asked = _named(least), _named(self.limits)
        raise BudgetError(
            f"{variant} found no network within {asked}; the smallest on its menu has {reached}. "
            "Raise the budget, use round_to=1, or another variant"
        )


def _named(amounts: Mapping[str, int]) -> str:
    """Write amounts for a message; times are of the weight layers alone."""
    counts = [f"{name} {amount:,}" for name, amount in amounts.items() if name != "nanoseconds"]
    times = [
        f"{amounts[name] / 1e6:.3g} ms in its layers"
        for name in ("nanoseconds",)
        if name in amounts
    ]
    return ", ".join(counts + times)


def solved_fractions(menu: Menu, solution: Solution, fractions: Fractions) -> Fractions:
    """Give, per unit, the removed fraction that was solved for; untouched units keep theirs."""
    solved = dict(fractions)
    plain = menu.pricer.price(menu.configuration((), ())).macs
    for unit in menu.units:
        mine = [
            place
            for place, item in enumerate(solution.items)
            if item.unit == unit.name and item.branch is None
        ]
        if not any(solution.choice[i] for i in mine) or not unit.cost.macs:
            continue
        items = tuple(solution.items[i] for i in mine)
        alone = menu.configuration(items, tuple(solution.choice[i] for i in mine))
        removed = (plain - menu.pricer.price(alone).macs) / unit.cost.macs
        solved[unit.name] = (min(max(removed, 0.05), 0.95),)
    return solved


def _harm_of(menu: Menu, sensitivities: Sensitivities) -> Callable[[Item, int], float]:
    """Give the harm of each option, read off the curves."""
    units = {unit.name: unit for unit in menu.units}

    def harm(item: Item, index: int) -> float:
        option = item.options[index]
        if isinstance(option, DropOption):
            return sensitivities.drop_harms[option.branch.name]
        if isinstance(option, tuple):
            return sensitivities.prune_harm(units[item.unit], option)
        return sensitivities.rank_harm(item.layer, option)

    return harm


def _mean_harm(curves: Curves, fractions: tuple[float, ...]) -> float:
    means = [sum(curve(x) for x in fractions) / len(fractions) for curve in curves.values()]
    return min(means, default=0.0)
