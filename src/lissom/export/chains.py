"""Merge chains of 1x1 convolutions in an exported graph where one costs less than two."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from lissom.export.redundant import drop_unread


def merge_chains(content: bytes) -> tuple[bytes, int]:
    """Put 1x1 convolutions into those behind them, which alone read what they give.

    Factors of a decomposed layer that follows a layer without an activation leave such chains
    behind. Of several chances the one that saves most comes first.

    Args:
        content: An ONNX file whose constants are in it.

    Returns:
        The file of the same function, up to rounding, and how many convolutions have gone.
    """
    model = ModelProto.FromString(content)
    if any(one.HasField("g") or one.graphs for node in model.graph.node for one in node.attribute):
        return content, 0  # graphs within read what they like
    count = 0
    while pairs := _pairs(model.graph):
        _merge(model.graph, max(pairs, key=lambda pair: pair.saved))
        drop_unread(model.graph, {entry.name for entry in model.graph.output})
        count += 1
    return (model.SerializeToString(), count) if count else (content, 0)


@dataclass(frozen=True)
class _Pointwise:
    """A 1x1 convolution."""

    node: NodeProto
    weight: np.ndarray  # (outputs, inputs, 1, ...)
    bias: np.ndarray | None
    strides: tuple[int, ...]

    @property
    def matrix(self) -> np.ndarray:
        """The weight as (outputs, inputs), in float64."""
        return self.weight.reshape(self.weight.shape[:2]).astype(np.float64)


@dataclass(frozen=True)
class _Pair:
    first: _Pointwise
    second: _Pointwise

    @property
    def saved(self) -> int:
        """MACs per pixel of the second one's output that one convolution in their place saves."""
        middle, inputs = self.first.weight.shape[:2]
        outputs = len(self.second.weight)
        pixels = prod(self.second.strides)  # of the first one's output
        return inputs * middle * pixels + middle * outputs - inputs * outputs


def _pairs(graph: GraphProto) -> list[_Pair]:
    """Find what would save MACs."""
    constants = {entry.name: entry for entry in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(entry.name for entry in graph.output)
    found = (_pointwise(node, constants) for node in graph.node)
    by_output = {one.node.output[0]: one for one in found if one is not None}
    pairs = (
        _Pair(by_output[one.node.input[0]], one)
        for one in by_output.values()
        if one.node.input[0] in by_output and readers[one.node.input[0]] == 1
    )
    return [pair for pair in pairs if pair.saved > 0]


def _pointwise(node: NodeProto, constants: dict[str, TensorProto]) -> _Pointwise | None:
    """Read a node that is a 1x1 convolution with constants of float32; None for any other."""
    if node.op_type != "Conv" or any(name not in constants for name in node.input[1:]):
        return None
    given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    padded = any(given.get("pads", ())) or given.get("auto_pad", b"NOTSET") != b"NOTSET"
    weight, *bias = (constants[name] for name in node.input[1:])
    kernel = tuple(weight.dims[2:])
    if padded or given.get("group", 1) != 1 or weight.data_type != TensorProto.FLOAT:
        return None
    if prod(kernel) != 1:
        return None
    return _Pointwise(
        node,
        numpy_helper.to_array(weight),
        numpy_helper.to_array(bias[0]) if bias else None,
        tuple(given.get("strides", (1,) * len(kernel))),
    )


def _merge(graph: GraphProto, pair: _Pair) -> None:
    """Let the second convolution do what both do."""
    first, second = pair.first, pair.second
    node = second.node
    weight = second.matrix @ first.matrix
    shape = (*weight.shape, *second.weight.shape[2:])
    inputs = [first.node.input[0], _added(graph, weight.reshape(shape), f"{node.output[0]}.weight")]
    if first.bias is not None or second.bias is not None:
        bias = np.zeros(len(weight)) if second.bias is None else second.bias.astype(np.float64)
        if first.bias is not None:
            bias = bias + second.matrix @ first.bias.astype(np.float64)
        inputs.append(_added(graph, bias, f"{node.output[0]}.bias"))
    del node.input[:]
    node.input.extend(inputs)
    for one in [one for one in node.attribute if one.name == "strides"]:
        node.attribute.remove(one)
    strides = [one * other for one, other in zip(first.strides, second.strides, strict=True)]
    node.attribute.append(helper.make_attribute("strides", strides))


def _added(graph: GraphProto, values: np.ndarray, name: str) -> str:
    """Add a constant under a name that is free, and give that."""
    taken = {entry.name for entry in graph.initializer}
    while name in taken:
        name += "_"
    graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    return name
