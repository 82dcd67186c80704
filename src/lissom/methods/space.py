"""What the search may choose from, and what a choice means for the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from lissom.methods.menu import RankOption, rank_options, resolve, with_channels
from lissom.methods.units import Unit
from lissom.plan.cost import Cost
from lissom.search.lagrangian import Choice, Problem
from lissom.search.price import Configuration, Pricer

PRUNE, DECOMPOSE, BOTH, KEEP = "prune", "decompose", "both", "keep"


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to decide: how many channels a unit keeps, or how a layer is factorized.

    Attributes:
        unit: Name of the unit.
        layer: The layer to factorize, or "" where channels are meant.
        options: Kept channels, or rank options; the search's option 0, "as it is", is not listed.
    """

    unit: str
    layer: str
    options: tuple[tuple[int, ...], ...] | tuple[RankOption, ...]


@dataclass(frozen=True, slots=True)
class Menu:
    """All that could be done to the units of a network, whatever their labels.

    Attributes:
        units: The units.
        cuts: Per unit name the sets of kept channels on offer, mild ones first.
        ranks: Per layer the rank options on offer, mild ones first.
        pricer: Prices configurations.
        round_to: Alignment of ranks.
    """

    units: tuple[Unit, ...]
    cuts: Mapping[str, tuple[tuple[int, ...], ...]]
    ranks: Mapping[str, tuple[RankOption, ...]]
    pricer: Pricer
    round_to: int | str

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
        return tuple(items)

    def configuration(self, items: Sequence[Item], choice: Choice) -> Configuration:
        """Give what a choice does to the network.

        Ranks are relative to the channels that are left; a layer that they would not make cheaper
        stays whole.
        """
        kept: dict[str, tuple[int, ...]] = {}
        fractions: dict[str, RankOption] = {}
        for item, index in zip(items, choice, strict=True):
            if index == 0:
                continue
            option = item.options[index - 1]
            if isinstance(option, RankOption):
                fractions[item.layer] = option
            else:
                kept[item.unit] = option
        cut = Configuration(kept)
        low_rank = {}
        for layer, rank_option in fractions.items():
            shape = with_channels(self.pricer.shapes[layer], *self.pricer.channels(layer, cut))
            found = resolve(rank_option, shape, self.round_to)
            if found is not None:
                low_rank[layer] = found
        return Configuration(kept, low_rank)

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

        @cache
        def price(choice: Choice) -> tuple[float, ...]:
            cost = self.pricer.price(self.configuration(items, choice))
            return tuple(float(getattr(cost, quantity)) for quantity in limits)

        return Problem(harms, price, tuple(float(limit) for limit in limits.values()))

    def smallest(self, variant: str) -> Cost:
        """Give the smallest cost that any labels of a variant can reach, per quantity.

        For ``nahc``, where a unit is either pruned or decomposed, each unit takes what leaves less
        while all others are at their smallest.
        """
        labels = dict.fromkeys((unit.name for unit in self.units), BOTH)
        if variant != "nahc":
            return self._extreme(labels)
        reached = []
        for quantity in ("params", "macs"):
            for unit in self.units:
                labels[unit.name] = self.stronger(unit, quantity, labels)
            reached.append(getattr(self._extreme(labels), quantity))
        params, macs = reached
        return Cost(params, macs, 32 * params)

    def stronger(self, unit: Unit, quantity: str, labels: Mapping[str, str]) -> str:
        """Name the family that can leave less of a quantity when all else is at its smallest."""
        left = {
            label: getattr(self._extreme({**labels, unit.name: label}), quantity)
            for label in unit.families
        }
        return min(left, key=left.__getitem__, default=KEEP)

    def _extreme(self, labels: Mapping[str, str]) -> Cost:
        items = self.items(labels)
        return self.pricer.price(self.configuration(items, tuple(len(i.options) for i in items)))


def menu_of(
    units: tuple[Unit, ...],
    cuts: Mapping[str, tuple[tuple[int, ...], ...]],
    pricer: Pricer,
    families: Sequence[str],
    round_to: int | str,
) -> Menu:
    """Put together what can be done to each unit."""
    ranks = {
        layer: rank_options(pricer.shapes[layer], families, round_to)
        for unit in units
        for layer in unit.layers
    }
    return Menu(units, cuts, ranks, pricer, round_to)
