"""The same function in operators that have an integer kernel."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, helper

from lissom.export.graph import OnnxGraph, attribute


def with_integer_kernels(content: bytes) -> bytes:
    """Rewrite what runtimes have no integer kernel for into what they have.

    A mean over the image becomes a global average pool. A shortcut that subsamples and adds
    channels of zeros (two slices and a pad) becomes one 1x1 convolution that copies channels.

    Args:
        content: An ONNX file as the exporter writes it, with shapes.
    """
    graph = OnnxGraph(content)
    producers = graph.producers()
    nodes: list[NodeProto] = []
    for node in graph.nodes:
        if node.op_type == "ReduceMean" and _over_the_image(graph, node):
            nodes += _pooled(node)
        elif node.op_type == "Pad" and (copied := _copying(graph, node, producers)) is not None:
            nodes.append(copied)
        else:
            nodes.append(node)
    graph.replace_nodes(_needed(graph, nodes))
    return graph.content()


def _over_the_image(graph: OnnxGraph, node: NodeProto) -> bool:
    axes = graph.constants.get(node.input[1]) if len(node.input) > 1 else None
    shape = graph.shapes.get(node.input[0], ())
    return axes is not None and len(shape) == 4 and sorted(int(axis) % 4 for axis in axes) == [2, 3]


def _pooled(node: NodeProto) -> list[NodeProto]:
    if attribute(node, "keepdims", 1):
        return [helper.make_node("GlobalAveragePool", node.input[:1], node.output, name=node.name)]
    inside = f"{node.output[0]}_pooled"
    return [
        helper.make_node("GlobalAveragePool", node.input[:1], [inside], name=node.name),
        helper.make_node("Flatten", [inside], node.output, name=f"{node.name}_flatten"),
    ]


def _copying(graph: OnnxGraph, pad: NodeProto, producers: dict[str, NodeProto]) -> NodeProto | None:
    """Give the convolution in place of slices and a pad of channels; None for another pad."""
    around = _channels_added(graph, pad)
    if around is None:
        return None
    strides, source = {2: 1, 3: 1}, pad.input[0]
    while (step := _subsampling(graph, producers.get(source))) is not None:
        strides[step[0]] *= step[1]
        source = producers[source].input[0]
    channels = (graph.shapes.get(source) or (None, None))[1]
    if channels is None:
        return None
    kernel = np.zeros((channels + sum(around), channels, 1, 1), np.float32)
    kernel[around[0] + np.arange(channels), np.arange(channels)] = 1
    name = f"{pad.output[0]}.weight"
    graph.constants[name] = kernel
    return helper.make_node(
        "Conv",
        [source, name],
        pad.output,
        name=pad.name,
        kernel_shape=[1, 1],
        strides=[strides[2], strides[3]],
    )


def _channels_added(graph: OnnxGraph, pad: NodeProto) -> tuple[int, int] | None:
    """Give how many channels of zeros stand before and after; None for any other pad."""
    around = graph.constants.get(pad.input[1])
    if attribute(pad, "mode", b"constant") != b"constant" or around is None or len(around) != 8:
        return None
    if any(around[[0, 2, 3, 4, 6, 7]]) or min(around) < 0 or len(pad.input) > 3:
        return None
    if len(pad.input) == 3 and pad.input[2] and np.any(graph.constants.get(pad.input[2], 1)):
        return None
    return int(around[1]), int(around[5])


def _subsampling(graph: OnnxGraph, node: NodeProto | None) -> tuple[int, int] | None:
    """Give axis and step of a slice that keeps every n-th row or column from the first on."""
    if node is None or node.op_type != "Slice" or len(node.input) != 5:
        return None
    given = [graph.constants.get(name) for name in node.input[1:]]
    if any(part is None or part.size != 1 for part in given):
        return None
    start, end, axis, step = (int(part.item()) for part in given if part is not None)
    if start != 0 or end < 2**31 - 1 or axis not in (2, 3) or step < 1:
        return None
    return axis, step


def _needed(graph: OnnxGraph, nodes: list[NodeProto]) -> list[NodeProto]:
    """Drop nodes that nobody reads any more."""
    needed = set(graph.outputs)
    kept = []
    for node in reversed(nodes):
        if needed & set(node.output):
            kept.append(node)
            needed.update(node.input)
    return kept[::-1]
