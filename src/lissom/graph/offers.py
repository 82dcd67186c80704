"""Which layers can be pruned or decomposed, as sets of names."""

from __future__ import annotations

from lissom.graph.layers import ModelGraph
from lissom.graph.refusals import DECOMPOSE, PRUNE


def prunable_layers(graph: ModelGraph) -> set[str]:
    """Give the layers whose output channels can be cut."""
    return _without_refusal(graph, PRUNE)


def decomposable_layers(graph: ModelGraph) -> set[str]:
    """Give the layers that can be replaced by several smaller ones in a row."""
    return _without_refusal(graph, DECOMPOSE)


def _without_refusal(graph: ModelGraph, action: str) -> set[str]:
    refused = {refusal.layer for refusal in graph.refusals if refusal.action == action}
    return {layer.name for layer in graph.layers} - refused
