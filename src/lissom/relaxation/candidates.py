"""Which layers become blocks, and which channels may vanish."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from lissom.graph.layers import ChannelGroup, ModelGraph, Role
from lissom.graph.offers import decomposable_layers


def relaxed_layers(graph: ModelGraph, ignore: Collection[str] = ()) -> tuple[str, ...]:
    """Name the layers that become blocks.

    All that can be decomposed but those that read the network's input (rows only) and those whose
    outputs it returns.
    """
    reading = {
        m.tensor.rpartition(".")[0] for g in graph.groups for m in g.members if m.role is Role.INPUT
    }
    returned = {name for group in graph.groups if not group.consumers for name in group.producers}
    offered = (decomposable_layers(graph) & reading) - returned - set(ignore)
    return tuple(
        layer.name
        for layer in graph.layers
        if layer.name in offered and layer.kind in ("conv2d", "linear") and layer.calls
    )


def shrinkable(
    model: nn.Module, graph: ModelGraph, ignore: Collection[str] = (), *, coupled: bool
) -> tuple[list[ChannelGroup], dict[str, str]]:
    """Give the groups whose channels may vanish, and for the coupled ones why they may not.

    Args:
        model: The network.
        graph: What it is made of.
        ignore: Layers whose output channels stay.
        coupled: Whether channels that residual sums couple may vanish, too.
    """
    groups: list[ChannelGroup] = []
    refused: dict[str, str] = {}
    for group in graph.groups:
        if group.frozen_because is not None or set(group.producers) & set(ignore):
            continue
        # A depthwise layer hands its channels on; only several sources make a coupled group.
        degrees = [getattr(model.get_submodule(name), "groups", 1) for name in group.producers]
        if degrees.count(1) <= 1 or coupled:
            groups.append(group)
        else:
            refused[group.name] = "coupled by sums; row_groups=all lets it shrink"
    return groups, refused
