"""Take out what an exported graph computes for nothing: added zeros, a ReLU of a ReLU."""

from __future__ import annotations

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, numpy_helper

_SAME_SHAPE = frozenset(
    {"Relu", "Identity", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Cast"}
)


def remove_redundant(model: ModelProto) -> None:
    """Remove additions of zeros and repeated ReLUs from a graph, and what nobody reads then.

    Residual branches that were dropped leave ``x + zeros_like(x)`` behind, which no runtime takes
    out where the batch size is free. What the graph computes stays the same, bit for bit but for
    the sign of zeros.

    Args:
        model: Is changed in place.
    """
    graph = model.graph
    outputs = {entry.name for entry in graph.output}
    producers = {name: node for node in graph.node for name in node.output}
    instead: dict[str, str] = {}
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = instead.get(name, name)
        redundant = _redundant(node, producers, graph)
        if redundant is not None and node.output[0] not in outputs:
            instead[node.output[0]] = redundant
    if instead:
        drop_unread(graph, outputs)


def _redundant(node: NodeProto, producers: dict[str, NodeProto], graph: GraphProto) -> str | None:
    """Name the tensor that a node merely hands on."""
    if node.op_type == "Relu":
        before = producers.get(node.input[0])
        return node.input[0] if before is not None and before.op_type == "Relu" else None
    if node.op_type == "Add":
        for zeros, other in (node.input, reversed(node.input)):
            if _zeros_like(zeros, producers, graph, other):
                return str(other)
    return None


def _zeros_like(name: str, producers: dict[str, NodeProto], graph: GraphProto, other: str) -> bool:
    """Whether a tensor is zeros of the shape of another one."""
    expand = producers.get(name)
    if expand is None or expand.op_type != "Expand" or not _is_zero(expand.input[0], graph):
        return False
    shape = producers.get(expand.input[1])
    if shape is None or shape.op_type != "Shape" or any(_moved(one) for one in shape.attribute):
        return False
    return _origin(shape.input[0], producers) == _origin(other, producers)


def _moved(attribute: object) -> bool:
    """Whether an attribute of Shape leaves axes out."""
    name, value = getattr(attribute, "name", ""), getattr(attribute, "i", 0)
    return name == "end" or (name == "start" and value != 0)


def _origin(name: str, producers: dict[str, NodeProto]) -> str:
    """Go back over operators that keep the shape."""
    node = producers.get(name)
    while node is not None and node.op_type in _SAME_SHAPE:
        name = node.input[0]
        node = producers.get(name)
    return name


def _is_zero(name: str, graph: GraphProto) -> bool:
    for entry in graph.initializer:
        if entry.name == name:
            return not np.any(numpy_helper.to_array(entry))
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] == name:
            value = next((one.t for one in node.attribute if one.name == "value"), None)
            return value is not None and not np.any(numpy_helper.to_array(value))
    return False


def drop_unread(graph: GraphProto, outputs: set[str]) -> None:
    """Remove nodes and constants whose values lead nowhere.

    Args:
        graph: Is changed in place.
        outputs: Names of the values that are given.
    """
    needed = set(outputs)
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    constants = [entry for entry in graph.initializer if entry.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(constants)
