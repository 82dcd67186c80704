"""OpenVINO as what latency is measured in."""

import pytest
import torch
from torch import nn

from lissom.measure.guessed_int8 import GuessedInt8
from lissom.measure.openvino_runtime import OpenVinoRuntime
from lissom.measure.operation import Operation
from lissom.measure.runtime import Runnable

pytest.importorskip("openvino", reason="the extra openvino is not installed")


@pytest.mark.parametrize("rewrite", [None, GuessedInt8()])
def test_all_operations_are_told_apart_in_float_and_in_int8(rewrite):
    operations = (
        Operation(16, 16, (16, 16), (3, 3), padding=(1, 1, 1, 1)),
        Operation(16, 16, (16, 16), (3, 3), padding=(1, 1, 1, 1), groups=16),
        Operation(8, 32, (16, 16), (1, 1), stride=(2, 2)),
        Operation(64, 10, (1, 1)),
        Operation(64, 64, (1, 49)),
    )
    samples = OpenVinoRuntime("0", rewrite).samples(operations, 2, 1)()
    assert [len(one) for one in samples] == [3] * len(operations)
    assert all(taken >= 0 for one in samples for taken in one)


def test_it_computes_what_the_network_computes():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)).eval()
    example = torch.randn(1, 3, 8, 8)
    expected = network(example).detach().numpy()
    for how, error in ((None, 1e-4), (GuessedInt8(), 0.1)):
        outputs = OpenVinoRuntime("0", how).call(Runnable(network), (example,), 1)()
        assert next(iter(outputs.values())) == pytest.approx(expected, abs=error)
