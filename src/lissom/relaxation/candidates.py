"""Which layers become blocks."""

from __future__ import annotations

from collections.abc import Collection

from lissom.graph.layers import ModelGraph, Role
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
