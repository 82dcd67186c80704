"""ONNX Runtime as what latency is measured in."""

import pytest
import torch
from torch import nn

from lissom.measure.guessed_int8 import GuessedInt8
from lissom.measure.onnx_runtime import OnnxRuntime, durations
from lissom.measure.operation import Operation
from lissom.measure.runtime import Runnable

OPERATIONS = (
    Operation(16, 16, (16, 16), (3, 3), padding=(1, 1, 1, 1)),
    Operation(16, 16, (16, 16), (3, 3), padding=(1, 1, 1, 1), groups=16),
    Operation(8, 32, (16, 16), (1, 1), stride=(2, 2)),
    Operation(64, 10, (1, 1)),
    Operation(64, 64, (1, 49)),
)


@pytest.mark.parametrize("rewrite", [None, GuessedInt8()])
def test_all_operations_are_told_apart_in_float_and_in_int8(rewrite):
    samples = OnnxRuntime(rewrite).samples(OPERATIONS, 2, 1)()
    assert [len(one) for one in samples] == [12] * len(OPERATIONS)
    assert all(taken > 0 for one in samples for taken in one[:3])


def test_the_times_in_int8_are_those_of_integer_kernels():
    """In int8 a convolution of many channels is faster, which no float kernel would be."""
    wide = [Operation(128, 128, (28, 28), (3, 3), padding=(1, 1, 1, 1))]
    plain, rounded = (
        min(OnnxRuntime(how).samples(wide, 1, 1)()[0]) for how in (None, GuessedInt8())
    )
    assert rounded < plain
    assert OnnxRuntime(GuessedInt8()).label == f"{OnnxRuntime().label} int8"


def test_a_network_runs_as_it_is_and_rounded():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)
    ).eval()
    example = torch.randn(1, 3, 8, 8)
    expected = network(example).detach().numpy()
    outputs = [
        OnnxRuntime(how).call(Runnable(network), (example,), 1)()[0]
        for how in (None, GuessedInt8(), GuessedInt8(frozenset(["0", "3"])))
    ]
    assert outputs[0] == pytest.approx(expected, abs=1e-5)
    assert outputs[1] == pytest.approx(expected, abs=0.1)
    assert outputs[1] != pytest.approx(expected, abs=1e-5)
    assert outputs[2] == pytest.approx(expected, abs=1e-5)


def test_profile_events_are_told_apart_by_name():
    def event(name, operator="Conv", category="Node"):
        return {"cat": category, "name": name, "dur": 7, "args": {"op_name": operator}}

    events = [
        event("y3_nchwc_kernel_time"),
        event("z3_nchwc_kernel_time"),
        event("fused y12_kernel_time", "FusedGemm"),
        event("z3_kernel_time", "Relu"),
        event("y4_token_17_kernel_time", "QLinearConv"),
        event("z4_dequantize_kernel_time", "DequantizeLinear"),
        event("ReorderOutput_token_1_kernel_time", "ReorderOutput"),
        event("y3_fence_before"),
        event("y4_kernel_time", category="Session"),
    ]
    assert durations(events) == {3: [7.0, 7.0], 4: [7.0], 12: [7.0]}
