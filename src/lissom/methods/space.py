"""What the search may choose from, and what a choice means for the network."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from lissom.graph.branches import Branch
from lissom.methods.menu import DropOption, RankOption, rank_options, resolve, with_channels
from lissom.methods.rank_rules import EQUAL, RankRule
from lissom.methods.units import Unit
from lissom.plan.cost import Cost
from lissom.search.lagrangian import Choice, Problem
from lissom.search.price import Configuration, LowRank, Pricer

PRUNE, DECOMPOSE, BOTH, KEEP = "prune", "decompose", "both", "keep"


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to decide: channels that a unit keeps, ranks of a layer, or whether a branch goes.

    Attributes:
        unit: Name of the unit, or of the branch.
        layer: The layer to factorize, or "" where channels or a branch are meant.
        options: Kept channels, rank options, or the one of dropping the branch; the search's option
            0, "as it is", is not listed.
    """

    unit: str
    layer: str
    options: tuple[tuple[int, ...], ...] | tuple[RankOption, ...] | tuple[DropOption]

    @property
    def branch(self) -> Branch | None:
        """Give the branch that may go; None where channels or ranks are meant."""
        option = self.options[0]
        return option.branch if isinstance(option, DropOption) else None


@dataclass(frozen=True, slots=True)
class Menu:
    """All that could be done to the units of a network, whatever their labels.

    Attributes:
        units: The units.
        cuts: Per unit name the sets of kept channels on offer, mild ones first.
        ranks: Per layer the rank options on offer, mild ones first.
        pricer: Prices configurations.
        round_to: Alignment of ranks.
        branches: Residual branches that may go, whatever the labels.
    """

    units: tuple[Unit, ...]
    cuts: Mapping[str, tuple[tuple[int, ...], ...]]
    ranks: Mapping[str, tuple[RankOption, ...]]
    pricer: Pricer
    round_to: int | str
    branches: tuple[Branch, ...] = ()

    def items(self, labels: Mapping[str, str]) -> tuple[Item, ...]:
        """List what is to be decided under ``labels``."""
        items: list[Item] = []
        for unit in self.units:
            label = labels[unit.name]
            if label in (PRUNE, BOTH) and self.cuts.get(unit.name):
                items.append(Item(unit.name, "", self.cuts[unit.name]))
            if label in (DECOMPOSE, BOTH):
                items.extend(
                    Item(unit.name, layer, self.ranks[layer])
                    for layer in unit.layers
                    if self.ranks.get(layer)
                )
        items.extend(Item(branch.name, "", (DropOption(branch),)) for branch in self.branches)
        return tuple(items)

    def configuration(self, items: Sequence[Item], choice: Choice) -> Configuration:
        """Give what a choice does to the network.

        Ranks are relative to the channels that are left; a layer that they would not make cheaper
        stays whole.
        """
        kept: dict[str, tuple[int, ...]] = {}
        fractions: dict[str, RankOption] = {}
        dropped: list[Branch] = []
        for item, index in zip(items, choice, strict=True):
            if index == 0:
                continue
            option = item.options[index - 1]
            if isinstance(option, RankOption):
                fractions[item.layer] = option
            elif isinstance(option, DropOption):
                dropped.append(option.branch)
            else:
                kept[item.unit] = option
        cut = Configuration(kept)
        resolved = {
            layer: self._resolved(layer, option, cut) for layer, option in fractions.items()
        }
        low_rank = {layer: found for layer, found in resolved.items() if found is not None}
        return Configuration(kept, low_rank, tuple(dropped))

    def _resolved(self, layer: str, option: RankOption, cut: Configuration) -> LowRank | None:
        shape = with_channels(self.pricer.shapes[layer], *self.pricer.channels(layer, cut))
        return resolve(option, shape, self.round_to)

    def problem(
        self,
        items: Sequence[Item],
        harm: Callable[[Item, int], float],
        limits: Mapping[str, int],
    ) -> Problem:
        """Pose the search for these items.

        Args:
            items: From ``items``.
            harm: Gives the harm of an item's option, by its place in ``options``.
            limits: Per quantity (``macs``, ``params``) the most that may remain.
        """
        harms = [
            (0.0, *(harm(item, index) for index in range(len(item.options)))) for item in items
        ]

        price = _ChoicePrice(self, items, tuple(limits))
        return Problem(harms, price, tuple(float(limit) for limit in limits.values()))

    def smallest(self, variant: str) -> Cost:
        """Give the smallest cost that any labels of a variant can reach, per quantity.

        For ``nahc``, where a unit is either pruned or decomposed, each unit takes what leaves less
        while all others are at their smallest.
        """
        params, macs = (self.least(variant, quantity) for quantity in ("params", "macs"))
        return Cost(params, macs, 32 * params)

    def least(self, variant: str, quantity: str) -> int:
        """Give the least of one quantity that any labels of a variant can reach."""
        return self._extreme(self.strongest(variant, quantity), quantity)

    def strongest(self, variant: str, quantity: str) -> dict[str, str]:
        """Give the labels under which the least of a quantity can be left."""
        labels = dict.fromkeys((unit.name for unit in self.units), BOTH)
        if variant == "nahc":
            for unit in self.units:
                labels[unit.name] = self.stronger(unit, quantity, labels)
        return labels

    def stronger(self, unit: Unit, quantity: str, labels: Mapping[str, str]) -> str:
        """Name the family that can leave less of a quantity when all else is at its smallest."""
        left = {
            label: self._extreme({**labels, unit.name: label}, quantity) for label in unit.families
        }
        return min(left, key=left.__getitem__, default=KEEP)

    def _extreme(self, labels: Mapping[str, str], quantity: str) -> int:
        """Give the least of a quantity: all cut to the last, then per layer what leaves least.

        Which rank option that is depends on the channels that the cuts leave.
        """
        items = self.items(labels)
        cut = Configuration(
            {item.unit: self.cuts[item.unit][-1] for item in items if _is_cut(item)},
            dropped=self.branches,
        )
        left = {name: getattr(cost, quantity) for name, cost in self.pricer.by_layer(cut).items()}
        for layer in (item.layer for item in items if item.layer):
            for option in self.ranks[layer]:
                low_rank = self._resolved(layer, option, cut)
                if low_rank is not None:
                    cost = self.pricer.layer(layer, replace(cut, low_rank={layer: low_rank}))
                    left[layer] = min(left[layer], getattr(cost, quantity))
        return sum(left.values())


class _ChoicePrice:
    """Prices choices layer by layer: what a layer costs depends on the few items that touch it."""

    def __init__(self, menu: Menu, items: Sequence[Item], quantities: Sequence[str]) -> None:
        self._menu, self._items, self._quantities = menu, items, quantities
        self._places: dict[str, list[int]] = {}
        for place, item in enumerate(items):
            for layer in _touched(item, menu.pricer):
                self._places.setdefault(layer, []).append(place)
        plain = menu.pricer.by_layer(Configuration())
        untouched = [cost for layer, cost in plain.items() if layer not in self._places]
        self._rest = self._figures(sum(untouched, Cost()))
        self._known: dict[str, dict[Choice, tuple[float, ...]]] = {n: {} for n in self._places}

    def __call__(self, choice: Choice) -> tuple[float, ...]:
        total = list(self._rest)
        for layer, places in self._places.items():
            own = tuple([choice[place] for place in places])
            figures = self._known[layer].get(own)
            if figures is None:
                figures = self._known[layer][own] = self._price(layer, own)
            for index, figure in enumerate(figures):
                total[index] += figure
        return tuple(total)

    def _price(self, layer: str, choice: Choice) -> tuple[float, ...]:
        items = [self._items[place] for place in self._places[layer]]
        configuration = self._menu.configuration(items, choice)
        return self._figures(self._menu.pricer.layer(layer, configuration))

    def _figures(self, cost: Cost) -> tuple[float, ...]:
        return tuple(float(getattr(cost, quantity)) for quantity in self._quantities)


def _is_cut(item: Item) -> bool:
    return not item.layer and item.branch is None


def _touched(item: Item, pricer: Pricer) -> Collection[str]:
    """Name the layers whose cost depends on what is decided."""
    if item.branch is not None:
        return [layer for layer in item.branch.layers if pricer.has(layer)]
    return [item.layer] if item.layer else pricer.touched(item.unit)


def menu_of(
    units: tuple[Unit, ...],
    cuts: Mapping[str, tuple[tuple[int, ...], ...]],
    pricer: Pricer,
    families: Sequence[str],
    round_to: int | str,
    rule: RankRule = EQUAL,
) -> Menu:
    """Put together what can be done to each unit.

    Args:
        units: The units.
        cuts: Per unit name the sets of kept channels on offer, mild ones first.
        pricer: Prices configurations.
        families: Decompositions on offer.
        round_to: Alignment of ranks.
        rule: Tells the ranks on offer.
    """
    ranks = {
        layer: rank_options(pricer.shapes[layer], families, round_to, partial(rule.grid, layer))
        for unit in units
        for layer in unit.layers
    }
    return Menu(units, cuts, ranks, pricer, round_to)
