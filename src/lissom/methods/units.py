"""What is compressed as one: a layer, or the layers of one channel group."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass

from lissom.errors import RecipeError
from lissom.graph.layers import ChannelGroup, ModelGraph
from lissom.graph.offers import decomposable_layers
from lissom.plan.cost import Cost


@dataclass(frozen=True, slots=True)
class Unit:
    """What gets one label.

    Attributes:
        name: Name of the group, or of the layer where there is no group to cut.
        group: The channels that pruning would cut, or None.
        layers: The producers that can be decomposed.
        cost: Of all producers.
    """

    name: str
    group: ChannelGroup | None
    layers: tuple[str, ...]
    cost: Cost

    @property
    def families(self) -> tuple[str, ...]:
        """Name what can be done to the unit: ``prune``, ``decompose``, or both."""
        prune = ("prune",) if self.group is not None else ()
        return prune + (("decompose",) if self.layers else ())

    @property
    def members(self) -> tuple[str, ...]:
        """Name all layers that carry the unit's label."""
        return self.layers if self.group is None else self.group.producers


def units_of(graph: ModelGraph, ignore: Collection[str]) -> tuple[Unit, ...]:
    """Divide a network into units.

    A group that can't be cut, or that an ignored layer produces, is no unit; its decomposable
    producers are units of their own, since nothing couples their ranks.

    Raises:
        RecipeError: ``ignore`` names a layer that the network has not got.
    """
    check_ignored(graph, ignore)
    offered = decomposable_layers(graph) - set(ignore)
    units = []
    placed: set[str] = set()
    for group in graph.groups:
        if group.frozen_because is not None or set(group.producers) & set(ignore):
            continue
        layers = tuple(name for name in group.producers if name in offered)
        cost = sum((graph.layer(name).cost for name in group.producers), Cost())
        units.append(Unit(group.name, group, layers, cost))
        placed.update(group.producers)
    for spec in graph.layers:
        if spec.name in offered - placed:
            units.append(Unit(spec.name, None, (spec.name,), spec.cost))
    order = {layer.name: index for index, layer in enumerate(graph.layers)}
    return tuple(sorted(units, key=lambda unit: order[unit.name]))


def check_ignored(graph: ModelGraph, ignore: Collection[str]) -> None:
    """Refuse names that are no layers.

    Raises:
        RecipeError: ``ignore`` names a layer that the network has not got.
    """
    names = [layer.name for layer in graph.layers]
    for layer in sorted(set(ignore) - set(names)):
        near = difflib.get_close_matches(layer, names, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise RecipeError(
            f"ignore: {layer!r} is not a layer of the network; {hint}`lissom inspect` "
            "lists them all"
        )
