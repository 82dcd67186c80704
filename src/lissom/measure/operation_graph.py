"""Small ONNX graphs to time operations in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from lissom.measure.operation import Operation

Feed = dict[str, NDArray[np.float32]]


def operation_graph(operations: Sequence[Operation], batch: int) -> tuple[bytes, Feed]:
    """Build a graph in which operation n is called y<n> and has a random weight, a bias, a ReLU.

    Args:
        operations: All of them read their input from outside.
        batch: Samples.

    Returns:
        The file, and its inputs: one per shape.
    """
    random = np.random.default_rng(0)
    nodes, weights, outputs = [], [], []
    feed: Feed = {}
    for place, one in enumerate(operations):
        shape = one.input_shape(batch)
        given = "x" + "_".join(map(str, shape))
        if given not in feed:
            feed[given] = random.standard_normal(shape, dtype=np.float32)
        names = [given, f"w{place}", f"b{place}"]
        for name, size in zip(names[1:], (one.weight_shape, (one.outputs,)), strict=True):
            values = random.standard_normal(size, dtype=np.float32)
            weights.append(numpy_helper.from_array(values, name))
        nodes.append(_node(one, place, names))
        nodes.append(helper.make_node("Relu", [f"y{place}"], [f"z{place}"], name=f"z{place}"))
        outputs.append(helper.make_tensor_value_info(f"z{place}", TensorProto.FLOAT, None))
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, values.shape)
        for name, values in feed.items()
    ]
    graph = helper.make_graph(nodes, "operations", inputs, outputs, weights)
    return _model(graph), feed


def _model(graph: onnx.GraphProto) -> bytes:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content


def _node(operation: Operation, place: int, names: list[str]) -> onnx.NodeProto:
    if operation.is_product:
        return helper.make_node("Gemm", names, [f"y{place}"], name=f"y{place}", transB=1)
    return helper.make_node(
        "Conv",
        names,
        [f"y{place}"],
        name=f"y{place}",
        kernel_shape=operation.kernel,
        strides=operation.stride,
        pads=operation.padding,
        dilations=operation.dilation,
        group=operation.groups,
    )


def chain(length: int) -> bytes:
    """Build a graph of so many operations in a row, on one number."""
    nodes = [
        helper.make_node("Sigmoid", [f"x{place}" if place else "x"], [f"x{place + 1}"])
        for place in range(length)
    ]
    given, taken = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", f"x{length}")
    )
    return _model(helper.make_graph(nodes, "chain", [given], [taken]))
