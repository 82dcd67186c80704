"""Which layers can be quantized, and why the others can not."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from lissom.graph.layers import LayerSpec, ModelGraph


def quantizable(
    model: nn.Module, graph: ModelGraph, ignore: frozenset[str]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Name the layers whose weights become levels, and say why the others do not.

    Args:
        model: The network.
        graph: What it is made of.
        ignore: Layers that the user wants left alone.

    Returns:
        Names in execution order, and a reason for every other convolution or linear layer.
    """
    owners: dict[int, set[int]] = {}
    for module in model.modules():  # each once, whatever names it has
        for parameter in module._parameters.values():
            if parameter is not None:
                owners.setdefault(id(parameter), set()).add(id(module))
    chosen, refused = [], {}
    for layer in graph.layers:
        module = model.get_submodule(layer.name) if layer.name else model
        if not isinstance(module, (_ConvNd, nn.Linear)):
            continue
        reason = "ignored" if layer.name in ignore else _reason(layer, module, owners)
        if reason:
            refused[layer.name or "(the network)"] = reason
        else:
            chosen.append(layer.name)
    return tuple(chosen), refused


def _reason(layer: LayerSpec, module: nn.Module, owners: Mapping[int, set[int]]) -> str:
    """Say why a layer can't be quantized; "" if it can."""
    weight = module._parameters.get("weight")
    if weight is None:
        return "its weight is computed by something else"
    if weight.dtype != torch.float32:
        return f"its weight is {weight.dtype}, levels are for float32: convert with model.float()"
    if not layer.name:
        return "is the whole network: put it into a Sequential"
    if len(owners[id(weight)]) > 1:
        return "shares its weight with another layer"
    return "" if layer.calls else "does not run"
