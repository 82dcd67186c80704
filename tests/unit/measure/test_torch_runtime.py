"""torch as what latency is measured in."""

from pathlib import Path

import pytest
import torch
from torch import nn

from lissom.errors import MeasureError
from lissom.measure.operation import Operation
from lissom.measure.runtime import Runnable
from lissom.measure.torch_runtime import TorchRuntime

NETWORK = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
EXAMPLE = (torch.randn(1, 3, 8, 8),)


def test_a_module_runs_without_gradients_on_the_threads_asked_for():
    class Noted(nn.Module):
        def forward(self, given):
            found.append((torch.get_num_threads(), torch.is_grad_enabled()))
            return given

    found = []
    before = torch.get_num_threads()
    TorchRuntime().call(Runnable(Noted()), EXAMPLE, before + 1)()
    assert set(found) == {(before + 1, False)}
    assert torch.get_num_threads() == before


def test_it_computes_what_the_network_computes():
    expected = NETWORK(*EXAMPLE)
    assert torch.equal(TorchRuntime().call(Runnable(NETWORK), EXAMPLE, 1)(), expected)


def test_operations_of_all_kinds_are_timed():
    kinds = [
        Operation(8, 8, (8, 8), (3, 3), padding=(1, 1, 1, 1)),
        Operation(8, 8, (8, 8), (2, 2), padding=(0, 0, 1, 1)),
        Operation(8, 8, (8, 8), (3, 3), dilation=(2, 2), groups=8),
        Operation(64, 10, (1, 4)),
    ]
    samples = TorchRuntime().samples(kinds, 2, 1)()
    assert [len(one) for one in samples] == [12] * len(kinds)
    assert TorchRuntime().start_up(1) == 0


def test_a_file_is_not_for_torch():
    with pytest.raises(MeasureError, match=r"torch can't run .*a\.onnx.*take onnxruntime"):
        TorchRuntime().call(Runnable(file=Path("a.onnx")), EXAMPLE, 1)


@pytest.mark.slow
def test_networks_of_one_class_are_compiled_each():
    """More of them than torch keeps compiled forms of one code: none may run uncompiled."""
    runtime = TorchRuntime(compiled=True)
    for width in range(1, 12):
        network = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU()).eval()
        call = runtime.call(Runnable(network), EXAMPLE, 1)
        assert call() == pytest.approx(network(*EXAMPLE).detach(), abs=1e-4)
        kernels = torch.profiler.profile()
        with kernels:
            call()
        names = {event.key for event in kernels.key_averages()}
        assert "aten::relu" not in names
    assert runtime.label.endswith(" compiled")
