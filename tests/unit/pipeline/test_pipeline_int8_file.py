from dataclasses import replace

import pytest
import torch
from torch import nn

from lissom.errors import ExportError
from lissom.export.int8_observe import observe
from lissom.export.int8_operators import with_integer_kernels
from lissom.export.onnx import onnx_content
from lissom.export.qdq import Int8Layout, layer_names, tensors_to_observe, write_qdq
from lissom.pipeline.int8_file import int8_file, planned_file, planned_layout
from lissom.plan.low_rank import ChannelSVD
from lissom.plan.plan import Plan
from lissom.plan.round_activations import RoundActivations
from lissom.quantization.activation_ranges import Range, collect_ranges
from lissom.task import Classification, Data


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def content() -> bytes:
    return with_integer_kernels(onnx_content(network(), (torch.zeros(1, 3, 8, 8),))[0])


@pytest.fixture(scope="module")
def layout(content: bytes) -> Int8Layout:
    seen = observe(content, tensors_to_observe(content), [(torch.randn(8, 3, 8, 8),)])
    return Int8Layout(collect_ranges(seen), frozenset(layer_names(content)))


def plan_of(layout: Int8Layout) -> Plan:
    ranges = tuple((name, one.low, one.high) for name, one in layout.ranges.items())
    return Plan(
        (RoundActivations(tuple(sorted(layout.layers)), ranges, layout.reduce_range, layout.bits),)
    )


def test_a_plan_gives_its_layout_and_the_file(content: bytes, layout: Int8Layout) -> None:
    few = replace(layout, bits=3, reduce_range=True)
    assert planned_layout(plan_of(layout)) == layout
    assert planned_layout(plan_of(few)) == few
    assert planned_file(content, layout) == write_qdq(content, layout)
    assert planned_layout(Plan((ChannelSVD("0", 2),))) is None
    assert planned_layout(Plan(())) is None


def test_names_that_the_file_has_not_got_are_named(content: bytes, layout: Int8Layout) -> None:
    fewer = {name: one for name, one in layout.ranges.items() if name != "relu"}
    with pytest.raises(ExportError, match=r"does not fit .* differs in relu: this version"):
        planned_file(content, replace(layout, ranges=fewer | {"other": Range(0, 1)}))
    with pytest.raises(ExportError, match="differs in conv9"):
        planned_file(content, replace(layout, layers=layout.layers | {"conv9"}))


def test_the_file_is_run_and_scored(layout: Int8Layout) -> None:
    images = torch.randn(32, 3, 8, 8)
    with torch.no_grad():
        batches = [(images, network()(images).argmax(1))]
    data = Data(batches, batches, batches, batches)
    inputs = (torch.zeros(1, 3, 8, 8),)
    found = int8_file(network(), plan_of(layout), inputs, data, Classification())
    assert found is not None
    assert found.section["size_bytes"] == len(found.content)
    assert found.section["metric"]["value"] > 0.8
    assert found.section["layers"] == {"0": "QLinearConv", "4": "QGemm"}
    assert found.section["kernel_agreement"]["samples"] == 32
    assert int8_file(network(), Plan(()), inputs, data, Classification()) is None
