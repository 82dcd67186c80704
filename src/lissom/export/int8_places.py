"""Where a network can compute in int8: its layers, and what may lie between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace

from onnx import NodeProto

from lissom.export.graph import OnnxGraph, attribute

_JOINS = ("Add", "Mul", "Concat")
_POOLS = ("AveragePool", "GlobalAveragePool", "Sigmoid", "LeakyRelu")
# Integers go through unchanged, so input and output have the same range.
_MOVES = ("MaxPool", "Slice", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze")
_RECTIFIERS = ("Relu", "Clip")
WEIGHTED = ("Conv", "ConvTranspose", "Gemm")
"""Operators whose float weights ONNX Runtime rounds where they read a rounded tensor."""


@dataclass(frozen=True, slots=True)
class Place:
    """One thing that a runtime computes in one go: a node with the activation after it.

    Attributes:
        name: Of a layer as the network calls it (``layer1.0.conv1``); else of the node.
        kind: ``layer``, ``join``, ``pool`` or ``move``.
        node: Its node.
        inputs: Tensors that it reads, without constants.
        output: The tensor after the activation.
        float_output: Whether int8 arithmetic may end here without rounding the result.
    """

    name: str
    kind: str
    node: NodeProto
    inputs: tuple[str, ...]
    output: str
    float_output: bool = False


def find_places(graph: OnnxGraph) -> list[Place]:
    """Give all places of a network in the order in which they run."""
    readers = graph.readers()
    found = (_place(graph, node, readers) for node in graph.nodes)
    places = [place for place in found if place is not None]
    times: Counter[str] = Counter()
    for index, place in enumerate(places):
        times[place.name] += 1
        if times[place.name] > 1:  # a module that is called twice
            places[index] = replace(place, name=f"{place.name}#{times[place.name]}")
    return places


def chosen_places(
    graph: OnnxGraph, places: Collection[Place], layers: Collection[str]
) -> list[Place]:
    """Give the places that compute in int8 when these layers do.

    What lies between two of them joins in; what stands alone between float tensors does not: the
    way to int8 and back would cost more than it saves.

    Args:
        graph: The network.
        places: All of its places.
        layers: Names of the layers that shall compute in int8.
    """
    reached: set[str] = set()
    forward = []
    for place in places:
        inside = place.name in layers if place.kind == "layer" else _between(place, reached)
        if inside:
            forward.append(place)
            reached.add(place.output)
    wanted: set[str] = set()
    chosen = []
    for place in reversed(forward):
        if place.kind == "layer" or (place.output in wanted and place.output not in graph.outputs):
            chosen.append(place)
            wanted.update(place.inputs)
    return _with_moves(graph, forward, chosen[::-1])


def _with_moves(
    graph: OnnxGraph, forward: Collection[Place], chosen: Collection[Place]
) -> list[Place]:
    """Add the moves between chosen places and layers in float.

    ONNX Runtime takes rounding past them all the same, and then rounds the layer's weights, too.
    """
    inside = {place.node.output[0] for place in chosen}
    wanted = {
        node.input[0]
        for node in graph.nodes
        if node.op_type in WEIGHTED and node.output[0] not in inside
    }
    moves = [place for place in forward if place.kind == "move"]
    for place in reversed(moves):
        if place.output in wanted:
            wanted.update(place.inputs)
    rounded = {place.output for place in chosen}
    joined = []
    for place in forward:
        leads = place.kind == "move" and place.output in wanted - set(graph.outputs)
        if place.node.output[0] in inside or (leads and place.inputs[0] in rounded):
            joined.append(place)
            rounded.add(place.output)
    return joined


def rounded_tensors(places: Collection[Place]) -> dict[str, str]:
    """Name the tensors that get a range, each with the tensor whose range it shares.

    Args:
        places: What computes in int8, in the order in which it runs.

    Returns:
        Tensor to the one that is observed for it, mostly itself.
    """
    read = {name for place in places for name in place.inputs}
    observed: dict[str, str] = {}
    for place in places:
        for name in place.inputs:
            observed.setdefault(name, name)
        if place.kind == "move":
            observed[place.output] = observed[place.inputs[0]]
        elif not place.float_output or place.output in read:
            observed[place.output] = place.output
    return observed


def _between(place: Place, reached: Collection[str]) -> bool:
    return any(name in reached for name in place.inputs)


def _place(graph: OnnxGraph, node: NodeProto, readers: dict[str, list[NodeProto]]) -> Place | None:
    inputs = tuple(name for name in node.input if name and name not in graph.constants)
    output = str(node.output[0])
    if _is_layer(graph, node):
        after = output if node.op_type == "MatMul" else _rectified(graph, output, readers)
        float_output = node.op_type != "Conv" and after == output
        return Place(layer_name(node), "layer", node, inputs, after, float_output)
    if node.op_type in _JOINS and len(inputs) == len(node.input):
        after = _rectified(graph, output, readers) if node.op_type == "Add" else output
        return Place(node.name, "join", node, inputs, after)
    if node.op_type in _POOLS and not attribute(node, "ceil_mode", 0):
        return Place(node.name, "pool", node, inputs, output)
    if node.op_type in _MOVES and len(inputs) == 1 and not any(node.output[1:]):
        return Place(node.name, "move", node, inputs, output)
    return None


def layer_name(node: NodeProto) -> str:
    """Give what the network calls a layer: the owner of its weight."""
    weight = str(node.input[1])
    return weight.removesuffix(".weight") if weight.endswith(".weight") else str(node.name)


def _is_layer(graph: OnnxGraph, node: NodeProto) -> bool:
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return False
    constants = [name in graph.constants for name in node.input if name]
    if constants[0] or not all(constants[1:]):
        return False
    if node.op_type == "MatMul":
        return graph.constants[node.input[1]].ndim == 2
    if node.op_type == "Gemm":
        factors = (attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0))
        return factors == (1.0, 1.0) and not attribute(node, "transA", 0)
    return True


def _rectified(graph: OnnxGraph, tensor: str, readers: dict[str, list[NodeProto]]) -> str:
    """Give the tensor after the ReLU that a runtime makes part of the rounding, if there is one."""
    after = graph.sole_reader(tensor, readers)
    if after is None or after.op_type not in _RECTIFIERS:
        return tensor
    if after.op_type == "Clip" and not _cuts_at_zero(graph, after):
        return tensor
    return str(after.output[0])


def _cuts_at_zero(graph: OnnxGraph, node: NodeProto) -> bool:
    low = graph.constants.get(node.input[1]) if len(node.input) > 1 else None
    return low is not None and float(low) == 0.0
