"""1x1 convolutions behind one another."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch import Tensor, nn

from lissom.export.chains import merge_chains
from lissom.export.onnx import export_onnx, onnx_content
from lissom.export.runtime import OnnxSession
from lissom.plan.build import build
from lissom.plan.low_rank import ChannelSVD
from lissom.plan.plan import Plan

INPUTS = (torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0)),)


def seeded(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(*layers).eval()
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            for parameter in module.parameters():
                nn.init.normal_(parameter, std=0.5)
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            nn.init.normal_(module.running_mean)
    return network


def convolutions(content: bytes) -> list[tuple[int, ...]]:
    """Give the shapes of the weights, in order."""
    graph = onnx.load_from_string(content).graph
    shapes = {entry.name: tuple(entry.dims) for entry in graph.initializer}
    return [shapes[node.input[1]] for node in graph.node if node.op_type == "Conv"]


def merged(network: nn.Module, inputs: tuple[Tensor, ...] = INPUTS) -> tuple[bytes, int]:
    """Merge, and hold what the file computes against what it computed before."""
    plain, _ = onnx_content(network, inputs)
    content, count = merge_chains(plain)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    expected, found = OnnxSession(plain)(*inputs), OnnxSession(content)(*inputs)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(one.abs().max()))
    return content, count


@pytest.mark.parametrize("bias", [True, False])
def test_a_chain_that_costs_more_than_one_becomes_one(bias: bool) -> None:
    network = seeded(nn.Conv2d(8, 16, 1, bias=bias), nn.BatchNorm2d(16), nn.Conv2d(16, 4, 1))
    content, count = merged(network)
    assert count == 1
    assert convolutions(content) == [(4, 8, 1, 1)]
    assert merge_chains(content) == (content, 0)


def test_a_chain_that_costs_less_than_one_stays() -> None:
    plain, _ = onnx_content(seeded(nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)), INPUTS)
    assert merge_chains(plain) == (plain, 0)


def test_of_three_the_pair_goes_whose_end_saves_most() -> None:
    """8 -> 24 -> 2 -> 24: the narrow place stays."""
    network = seeded(nn.Conv2d(8, 24, 1), nn.Conv2d(24, 2, 1), nn.Conv2d(2, 24, 1))
    content, count = merged(network)
    assert count == 1
    assert convolutions(content) == [(2, 8, 1, 1), (24, 2, 1, 1)]


class Several(nn.Module):
    """What lies between is read twice, or given out."""

    def __init__(self, *, given: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 4, 1)
        self.given = given

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        between = self.first(x)
        return self.second(between), between if self.given else between.amax((2, 3))


@pytest.mark.parametrize(
    "network",
    [
        seeded(nn.Conv2d(8, 16, 1), nn.ReLU(), nn.Conv2d(16, 4, 1)),
        seeded(nn.Conv2d(8, 16, 1), nn.Conv2d(16, 4, 1, groups=2)),
        seeded(nn.Conv2d(8, 16, 1, groups=2), nn.Conv2d(16, 4, 1)),
        seeded(nn.Conv2d(8, 16, 1), nn.Conv2d(16, 4, 1, padding=1)),
        seeded(nn.Conv2d(8, 16, 1, padding=1), nn.Conv2d(16, 4, 1)),
        seeded(nn.Conv2d(8, 16, 1), nn.Conv2d(16, 4, 3)),
        seeded(nn.Conv2d(8, 16, (1, 3)), nn.Conv2d(16, 4, 1)),
        Several(given=True).eval(),
        Several(given=False).eval(),
    ],
    ids=["relu", "groups", "first groups", "pad", "first pad", "3x3", "1x3", "output", "readers"],
)
def test_what_is_no_chain_of_1x1_stays(network: nn.Module) -> None:
    plain, _ = onnx_content(network, INPUTS)
    assert merge_chains(plain) == (plain, 0)


def test_a_graph_with_graphs_within_is_left_alone() -> None:
    """A branch of an If may read what lies between without naming it as an input."""
    plain, _ = onnx_content(seeded(nn.Conv2d(8, 16, 1), nn.Conv2d(16, 4, 1)), INPUTS)
    model = onnx.load_from_string(plain)
    between = model.graph.node[0].output[0]
    reads = helper.make_node("Identity", [between], ["inner"])
    inner = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
    branch = helper.make_graph([reads], "branch", [], [inner])
    model.graph.node.append(
        helper.make_node("If", ["which"], ["either"], then_branch=branch, else_branch=branch)
    )
    assert merge_chains(plain)[1] == 1
    assert merge_chains(model.SerializeToString())[1] == 0


def test_strides_multiply_and_count() -> None:
    """The second one's stride makes the first one dear: it computes what nobody reads."""
    layers = nn.Conv2d(8, 4, 1, stride=(1, 2)), nn.Conv2d(4, 8, 1, stride=2)
    content, count = merged(seeded(*layers))
    assert count == 1
    assert convolutions(content) == [(8, 8, 1, 1)]
    (node,) = onnx.load_from_string(content).graph.node
    strides = next(list(one.ints) for one in node.attribute if one.name == "strides")
    assert strides == [2, 4]


def test_a_weight_that_two_convolutions_share_stays_with_the_other() -> None:
    shared = nn.Conv2d(8, 8, 1)
    network = seeded(shared, nn.ReLU(), shared, nn.Conv2d(8, 8, 1))
    content, count = merged(network)
    assert count == 1
    assert convolutions(content) == [(8, 8, 1, 1)] * 2


@settings(max_examples=10, deadline=None)
@given(
    widths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    strides=st.lists(st.sampled_from([1, 2]), min_size=4, max_size=4),
    biases=st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_any_chain_computes_the_same_for_fewer_macs(
    widths: list[int], strides: list[int], biases: list[bool]
) -> None:
    sizes = [8, *widths]
    layers = [
        nn.Conv2d(*sizes[place : place + 2], 1, stride=strides[place], bias=biases[place])
        for place in range(len(widths))
    ]
    content, count = merged(seeded(*layers))
    found = convolutions(content)
    assert len(found) == len(widths) - count
    assert found[0][1] == 8
    assert found[-1][0] == widths[-1]


def test_factors_behind_a_layer_without_an_activation_are_merged_in_the_file(
    tmp_path: Path,
) -> None:
    network = build(
        seeded(nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 24, 1), nn.ReLU()),
        Plan((ChannelSVD("2", 2),)),
    )
    check = export_onnx(network, INPUTS, tmp_path / "network.onnx")
    assert check.merged == 1
    assert convolutions((tmp_path / "network.onnx").read_bytes()) == [(2, 8, 1, 1), (24, 2, 1, 1)]
    assert export_onnx(network, INPUTS, tmp_path / "kept.onnx", chains="kept").merged == 0
