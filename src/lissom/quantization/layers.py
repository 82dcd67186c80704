"""Which layers can be quantized, and why the others can not."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvNd

from lissom.graph.layers import ModelGraph


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
    counts: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        counts[id(parameter)] = counts.get(id(parameter), 0) + 1
    chosen, refused = [], {}
    for layer in graph.layers:
        module = model.get_submodule(layer.name) if layer.name else model
        if not isinstance(module, (_ConvNd, nn.Linear)):
            continue
        weight = module._parameters.get("weight")
        if layer.name in ignore:
            refused[layer.name] = "ignored"
        elif weight is None:
            refused[layer.name] = "its weight is computed by something else"
        elif counts[id(weight)] > 1:
            refused[layer.name] = "shares its weight with another layer"
        elif not layer.calls:
            refused[layer.name] = "does not run"
        else:
            chosen.append(layer.name)
    return tuple(chosen), refused
