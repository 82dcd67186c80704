"""Graphs without what they compute for nothing."""

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from lissom.export.onnx import export_onnx
from lissom.export.redundant import remove_redundant
from lissom.export.runtime import OnnxSession
from lissom.plan.build import build
from lissom.plan.drop_residual import DropResidual
from lissom.plan.plan import Plan


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.conv1 = nn.Conv2d(4, 9, 1)
        self.conv2 = nn.Conv2d(9, 4, 1)

    def forward(self, x):
        x = F.relu(self.stem(x))
        out = self.conv2(F.relu(self.conv1(x)))
        out += x
        return F.relu(out).mean((2, 3))


def test_a_dropped_branch_leaves_nothing_in_the_file(tmp_path):
    model = build(Residual().eval(), Plan((DropResidual(("conv1",), "conv2"),)))
    check = export_onnx(model, (torch.randn(1, 3, 5, 5),), tmp_path / "small.onnx")
    assert check.dynamic_batch
    kinds = [node.op_type for node in onnx.load(tmp_path / "small.onnx").graph.node]
    assert kinds == ["Conv", "Relu", "ReduceMean"]


def graph(nodes, constants=(), output="y"):
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 3]) for n in ("x", output)]
    values = [numpy_helper.from_array(np.array(v, np.float32), n) for n, v in constants]
    made = helper.make_graph(nodes, "g", ends[:1], ends[1:], values)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def kinds_after(model):
    before = OnnxSession(model.SerializeToString())
    remove_redundant(model)
    onnx.checker.check_model(model, full_check=True)
    x = torch.randn(2, 3)
    after = OnnxSession(model.SerializeToString())
    assert torch.equal(before(x)[0], after(x)[0])
    return [node.op_type for node in model.graph.node]


def added(value, shape_of="a", **start):
    return graph(
        [
            helper.make_node("Relu", ["x"], ["a"]),
            helper.make_node("Shape", [shape_of], ["s"], **start),
            helper.make_node("Expand", ["c", "s"], ["z"]),
            helper.make_node("Add", ["z", "a"], ["b"]),
            helper.make_node("Sigmoid", ["b"], ["y"]),
        ],
        [("c", value)],
    )


@pytest.mark.parametrize("shape_of", ["a", "x"])
def test_zeros_of_the_same_shape_are_not_added(shape_of):
    model = added(0.0, shape_of)
    assert kinds_after(model) == ["Relu", "Sigmoid"]
    assert not model.graph.initializer


def test_other_values_are_added():
    assert "Add" in kinds_after(added(0.5))


def test_zeros_that_may_have_more_axes_are_added():
    model = added([[[0.0]]], start=1)
    remove_redundant(model)
    assert "Add" in [node.op_type for node in model.graph.node]


def test_a_relu_of_a_relu_goes_but_no_output_is_renamed():
    twice = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    assert kinds_after(graph([*twice, helper.make_node("Sigmoid", ["b"], ["y"])])) == [
        "Relu",
        "Sigmoid",
    ]
    twice[1].output[0] = "y"
    assert kinds_after(graph(twice)) == ["Relu", "Relu"]
