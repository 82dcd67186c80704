"""What a network costs after channels are cut and layers decomposed, without building it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from math import prod

import numpy as np
from numpy.typing import NDArray
from torch import nn

from lissom.clock import Clock
from lissom.graph.branches import Branch
from lissom.graph.layers import ChannelGroup, LayerSpec, Member, ModelGraph, Role
from lissom.lowrank.families import family_named
from lissom.plan.cost import Cost
from lissom.plan.predict import LayerShape
from lissom.search.layer_times import LayerTimes
from lissom.search.low_rank import LowRank as LowRank

Cuts = tuple[tuple[str, tuple[int, ...]], ...]  # groups and their kept channels


@dataclass(frozen=True, slots=True)
class Configuration:
    """What is done to the whole network.

    Attributes:
        kept: Per cut channel group its kept channels.
        low_rank: Per decomposed layer its ranks.
        dropped: Residual branches that go as a whole.
    """

    kept: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    low_rank: Mapping[str, LowRank] = field(default_factory=dict)
    dropped: tuple[Branch, ...] = ()

    @property
    def gone(self) -> frozenset[str]:
        """Name the layers of the dropped branches."""
        return frozenset(layer for branch in self.dropped for layer in branch.layers)


class Pricer:
    """Prices configurations exactly: integers, equal to what the built network is measured to cost.

    With a clock, they have the time of the weight layers beside it.

    Attributes:
        shapes: Per convolution and linear layer the sizes that its cost follows from.
    """

    def __init__(self, model: nn.Module, graph: ModelGraph, clock: Clock | None = None) -> None:
        self._times = None if clock is None else LayerTimes(model, graph, clock)
        self._layers = {layer.name: layer for layer in graph.layers}
        self._shapes = {
            n: tuple(p.shape) for n, p in model.named_parameters(remove_duplicate=False)
        }
        self._aliases = _first_names(model)
        modules = dict(model.named_modules())
        self.shapes = {
            layer.name: LayerShape.of(
                modules[layer.name], layer.input_shape, layer.output_shape, layer.calls
            )
            for layer in graph.layers
            if layer.kind in ("conv2d", "linear") and layer.calls
        }
        self._owned: dict[str, list[str]] = {name: [] for name in self._layers}
        for name in self._shapes:
            self._owned.setdefault(name.rpartition(".")[0], []).append(name)
        self._groups = {group.name: group for group in graph.groups}
        self._axes: dict[tuple[str, int], list[tuple[str, Member]]] = {}
        for group in graph.groups:
            for member in group.members:
                if member.role is not Role.MAP:
                    self._axes.setdefault((member.tensor, member.axis), []).append(
                        (group.name, member)
                    )
        self._labels = {
            (name, member.tensor, member.axis): np.asarray(member.labels)
            for (_tensor, _axis), entries in self._axes.items()
            for name, member in entries
        }
        self._touched = {group.name: self._layers_of(group) for group in graph.groups}
        self._touching: dict[str, list[str]] = {name: [] for name in self._layers}
        for group_name, layers in self._touched.items():
            for layer in layers:
                self._touching[layer].append(group_name)
        self._known: dict[tuple[object, ...], Cost] = {}
        self._widths: dict[tuple[object, ...], tuple[int, int]] = {}

    @cached_property
    def _plain(self) -> dict[str, Cost]:
        return {name: self._cost(name, {}) for name in self._layers}

    def price(self, configuration: Configuration) -> Cost:
        """Give the cost of the whole network under ``configuration``."""
        return sum(self.by_layer(configuration).values(), Cost())

    def by_layer(self, configuration: Configuration) -> dict[str, Cost]:
        """Give the cost of each layer under ``configuration``."""
        costs = dict(self._plain)
        cut = chain.from_iterable(self._touched[group] for group in configuration.kept)
        for name in {*cut, *configuration.low_rank, *configuration.gone} & costs.keys():
            costs[name] = self.layer(name, configuration)
        return costs

    def layer(self, name: str, configuration: Configuration) -> Cost:
        """Give the cost of one layer under ``configuration``."""
        if configuration.dropped and name in configuration.gone:
            return Cost()
        low_rank = configuration.low_rank.get(name)
        cuts = self._cuts(name, configuration)
        key = (name, low_rank, *cuts)
        if key not in self._known:
            self._known[key] = self._cost(name, self._masks(cuts), low_rank)
        return self._known[key]

    def has(self, layer: str) -> bool:
        """Whether a name is that of a layer with a cost."""
        return layer in self._layers

    def touched(self, group: str) -> frozenset[str]:
        """Name the layers whose cost depends on how many channels of a group are kept."""
        return self._touched[group]

    def channels(self, layer: str, configuration: Configuration) -> tuple[int, int]:
        """Give how many input and output channels a convolution or linear layer is left with."""
        cuts = self._cuts(layer, configuration)
        key = (layer, *cuts)
        if key not in self._widths:
            masks = self._masks(cuts)
            weight = self._aliases[f"{layer}.weight"]
            transposed = self._layers[layer].kind == "conv_transpose2d"
            axes = (0, 1) if transposed else (1, 0)
            inputs, outputs = (self._length(weight, axis, masks) for axis in axes)
            self._widths[key] = (inputs, outputs)
        return self._widths[key]

    def _cuts(self, layer: str, configuration: Configuration) -> Cuts:
        kept = configuration.kept
        return tuple((group, kept[group]) for group in self._touching[layer] if group in kept)

    def _masks(self, cuts: Cuts) -> dict[str, NDArray[np.bool_]]:
        masks = {}
        for group, kept in cuts:
            masks[group] = np.zeros(self._groups[group].channels, dtype=bool)
            masks[group][list(kept)] = True
        return masks

    def _layers_of(self, group: ChannelGroup) -> frozenset[str]:
        tensors = {member.tensor for member in group.members}
        names = (name for name, first in self._aliases.items() if first in tensors)
        return frozenset({name.rpartition(".")[0] for name in names} & self._layers.keys())

    def _length(self, tensor: str, axis: int, masks: Mapping[str, NDArray[np.bool_]]) -> int:
        """Give the length of one axis after the cuts (grouped inputs: per convolution group)."""
        length = self._shapes[tensor][axis]
        for group, member in self._axes.get((tensor, axis), ()):
            if group not in masks:
                continue
            labels = self._labels[group, tensor, axis]
            lost = int(np.count_nonzero((labels >= 0) & ~masks[group][labels]))
            length -= lost // member.groups
        return length

    def _cost(
        self,
        layer: str,
        masks: Mapping[str, NDArray[np.bool_]],
        low_rank: LowRank | None = None,
    ) -> Cost:
        spec = self._layers[layer]
        if low_rank is not None:
            found = self._low_rank_cost(spec, masks, low_rank)
            return replace(found, nanoseconds=self._time(layer, masks, low_rank))
        params = macs = 0
        for tensor in self._owned[layer]:
            if self._aliases[tensor] != tensor:
                continue
            size = 1
            for axis in range(len(self._shapes[tensor])):
                size *= self._length(tensor, axis, masks)
            params += size
        if spec.cost.macs:
            before, after = 1, 1
            weight = self._multiplied(layer)
            for axis, length in enumerate(self._shapes.get(weight, ())):
                before *= length
                after *= self._length(weight, axis, masks)
            macs = spec.cost.macs // before * after  # MACs are the weight's size times positions
        return Cost(params, macs, 32 * params, self._time(layer, masks))

    def _time(
        self,
        layer: str,
        masks: Mapping[str, NDArray[np.bool_]],
        low_rank: LowRank | None = None,
    ) -> int:
        if self._times is None or layer not in self.shapes:
            return 0
        weight = self._aliases[f"{layer}.weight"]
        outputs, inputs = (self._length(weight, axis, masks) for axis in (0, 1))
        return self._times.of(layer, inputs, outputs, low_rank)

    def _multiplied(self, layer: str) -> str:
        """Name the tensor that a layer multiplies with: ``weight``, or the largest that it owns."""
        usual = f"{layer}.weight"
        if usual in self._aliases:
            return self._aliases[usual]
        owned = self._owned[layer]
        return self._aliases[max(owned, key=lambda n: prod(self._shapes[n]))] if owned else ""

    def _low_rank_cost(
        self, spec: LayerSpec, masks: Mapping[str, NDArray[np.bool_]], low_rank: LowRank
    ) -> Cost:
        weight = f"{spec.name}.weight"
        outputs, inputs = self._length(weight, 0, masks), self._length(weight, 1, masks)
        shape = replace(self.shapes[spec.name], out_channels=outputs, in_channels=inputs)
        return family_named(low_rank.family).cost(shape, low_rank.ranks)


def _first_names(model: nn.Module) -> dict[str, str]:
    """Map each parameter name to the first name of the same tensor (tied weights count once)."""
    first: dict[int, str] = {}
    return {
        name: first.setdefault(id(parameter), name)
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }
