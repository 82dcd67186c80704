"""Weights prepared for rounding: channels made alike between layers, means put right after it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from onnx import NodeProto, helper
from torch import Tensor

from lissom.export.graph import OnnxGraph, attribute
from lissom.export.int8_observe import observe
from lissom.export.int8_places import Place, find_places
from lissom.export.int8_weights import WEIGHT_LEVELS, weight_steps
from lissom.export.qdq import Int8Layout, Rounding, restored
from lissom.quantization.equalize import (
    corrected_bias,
    divide_channels,
    equalizing_factors,
    multiply_readers,
    reading_weights,
)

_WITH_BIAS = ("Conv", "Gemm")
# Each channel alone, and a factor on its input is one on its output.
_HOMOGENEOUS = ("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool")


@dataclass(frozen=True, slots=True)
class Chain:
    """Two layers with nothing between them that would notice a factor on a channel.

    Attributes:
        first: The layer whose output channels are divided.
        second: The layer that reads them, and nobody else does.
    """

    first: Place
    second: Place


def equalize(content: bytes, batches: Iterable[Sequence[Tensor]]) -> tuple[bytes, int]:
    """Make the channels between two layers alike, without changing the function.

    Args:
        content: A float network.
        batches: Calibration inputs.

    Returns:
        The bytes of the new network, and how many pairs of layers it concerns.
    """
    graph = OnnxGraph(content)
    chains = find_chains(graph)
    if not chains:
        return content, 0
    tensors = list(dict.fromkeys(chain.first.output for chain in chains))
    peaks: dict[str, Tensor] = {}
    for batch in observe(content, tensors, batches):
        for name, value in batch.items():
            highest = value.abs().transpose(0, 1).flatten(1).amax(dim=1)
            peaks[name] = torch.maximum(peaks.get(name, highest), highest)
    for chain in chains:
        _equalize(graph, chain, peaks[chain.first.output])
    return graph.content(), len(chains)


def find_chains(graph: OnnxGraph) -> list[Chain]:
    """Find the pairs of layers that can be equalized exactly.

    A second layer whose weights lie on a grid of levels is left alone: it would be torn off it.
    """
    readers = graph.readers()
    layers = {
        place.node.output[0]: place
        for place in find_places(graph)
        if place.kind == "layer" and place.node.op_type in _WITH_BIAS
    }
    shared = _read_twice(graph, readers)
    found = []
    for place in layers.values():
        reader = _next_layer(graph, place, readers)
        second = None if reader is None else layers.get(reader.output[0])
        if second is None or {place.node.input[1], second.node.input[1]} & shared:
            continue
        weight = _kernel(graph, second.node)
        channels = len(_kernel(graph, place.node))
        if weight.shape[1] * _groups(second.node) == channels and not _on_grid(weight):
            found.append(Chain(place, second))
    return found


def correct_biases(
    content: bytes, layout: Int8Layout, batches: Iterable[Sequence[Tensor]]
) -> bytes:
    """Take out of each bias what rounding adds to the mean of the layer's output channels.

    Every layer is looked at alone, with the inputs that it has in the float network, rounded.

    Args:
        content: The float network that will be rounded.
        layout: How.
        batches: Calibration inputs.
    """
    graph = OnnxGraph(content)
    means = _side_by_side(graph, layout)
    totals: dict[str, Tensor] = {}
    names = [name for pair in means.values() for name in pair]
    weight = 0
    for batch in observe(graph.content(), (*names, *graph.inputs), batches):
        samples = len(batch[graph.inputs[0]])
        weight += samples
        for name in names:
            totals[name] = totals.get(name, torch.zeros(())) + batch[name].double() * samples
    corrected = OnnxGraph(content)
    nodes = corrected.producers()
    for output, (intended, found) in means.items():
        node = nodes[output]
        bias = corrected_bias(
            _bias(corrected, node), totals[intended] / weight, totals[found] / weight
        )
        _set_bias(corrected, node, bias)
    return corrected.content()


def _side_by_side(graph: OnnxGraph, layout: Int8Layout) -> dict[str, tuple[str, str]]:
    """Put a rounded twin beside each layer, and give the names of the two means per layer."""
    rounding, places = Rounding.of(graph, layout)
    layers = {
        place.node.output[0]: place
        for place in places
        if place.kind == "layer" and place.node.op_type in _WITH_BIAS
    }
    means: dict[str, tuple[str, str]] = {}
    nodes = [pair for name in graph.inputs for pair in rounding.pair(name)]
    for node in graph.nodes:
        nodes.append(node)
        if node.output[0] in layers:
            twin = NodeProto()
            twin.CopyFrom(node)
            twin.input[0] = restored(node.input[0])
            twin.output[0] = f"{node.output[0]}_twin"
            place = replace(layers[node.output[0]], node=twin)
            rounding.round_weights(place, layout.weight_levels)
            nodes += [*rounding.before[twin.output[0]], twin]
            means[node.output[0]] = _means(graph, node, twin, nodes)
        nodes += [pair for name in node.output for pair in rounding.pair(name)]
    graph.replace_nodes(nodes)
    return means


def _means(
    graph: OnnxGraph, node: NodeProto, twin: NodeProto, nodes: list[NodeProto]
) -> tuple[str, str]:
    name = "spatial_axes" if node.op_type == "Conv" else "batch_axis"
    rank = graph.constants[node.input[1]].ndim
    axes = (0, *range(2, rank)) if node.op_type == "Conv" else (0,)
    graph.constants[f"{name}_{rank}"] = np.array(axes, np.int64)
    names = (f"{node.output[0]}_mean", f"{twin.output[0]}_mean")
    for source, mean in zip((node, twin), names, strict=True):
        inputs = [source.output[0], f"{name}_{rank}"]
        nodes.append(helper.make_node("ReduceMean", inputs, [mean], keepdims=0))
    return names


def _equalize(graph: OnnxGraph, chain: Chain, peaks: Tensor) -> None:
    first, second = chain.first.node, chain.second.node
    groups = _groups(second)
    reader = _kernel(graph, second)
    factors = equalizing_factors(peaks, reading_weights(reader, groups))
    weight, bias = divide_channels(_kernel(graph, first), _bias(graph, first), factors)
    _set_kernel(graph, first, weight)
    _set_bias(graph, first, bias)
    _set_kernel(graph, second, multiply_readers(reader, factors, groups))


def _next_layer(
    graph: OnnxGraph, place: Place, readers: dict[str, list[NodeProto]]
) -> NodeProto | None:
    """Follow the only reader from a layer's output over what keeps factors apart."""
    before = place.node
    node = graph.sole_reader(before.output[0], readers)
    while node is not None and (node.op_type in _HOMOGENEOUS or _drops_the_image(node, before)):
        before = node
        node = graph.sole_reader(before.output[0], readers)
    return node


def _drops_the_image(node: NodeProto, before: NodeProto) -> bool:
    """Whether a node turns (N, C, 1, 1) into (N, C); elsewhere a view may mix channels."""
    return node.op_type in ("Flatten", "Reshape") and before.op_type == "GlobalAveragePool"


def _read_twice(graph: OnnxGraph, readers: dict[str, list[NodeProto]]) -> set[str]:
    return {name for name in graph.constants if len(readers.get(name, [])) > 1}


def _on_grid(weight: Tensor) -> bool:
    array = weight.numpy()
    peaks = np.abs(array.reshape(len(array), -1)).max(axis=1)
    return bool((weight_steps(array) > 1.5 * np.maximum(peaks, 1e-30) / WEIGHT_LEVELS).any())


def _groups(node: NodeProto) -> int:
    return int(attribute(node, "group", 1))


def _is_transposed(node: NodeProto) -> bool:
    return node.op_type == "MatMul" or (node.op_type == "Gemm" and not attribute(node, "transB", 0))


def _kernel(graph: OnnxGraph, node: NodeProto) -> Tensor:
    """Give a layer's weight with the output channels in front."""
    weight = torch.from_numpy(graph.constants[node.input[1]].copy())
    return weight.T if _is_transposed(node) else weight


def _set_kernel(graph: OnnxGraph, node: NodeProto, weight: Tensor) -> None:
    graph.constants[node.input[1]] = (weight.T if _is_transposed(node) else weight).numpy()


def _bias(graph: OnnxGraph, node: NodeProto) -> Tensor | None:
    if len(node.input) < 3 or not node.input[2]:
        return None
    return torch.from_numpy(graph.constants[node.input[2]].copy())


def _set_bias(graph: OnnxGraph, node: NodeProto, bias: Tensor) -> None:
    """Give a layer a bias of its own: constants of equal values may be one in the file."""
    name = f"{node.output[0]}_bias"
    graph.constants[name] = bias.float().numpy()
    if len(node.input) < 3:
        node.input.append(name)
    else:
        node.input[2] = name
