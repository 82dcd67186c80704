from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lissom.errors import ExportError
from lissom.export import onnx
from lissom.export.onnx import export_onnx
from lissom.export.runtime import OnnxSession


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    )


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.shape[0] <= 2 else x + 1


class TwoInputs(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        return {"sum": a + b, "product": a * b}


class Unsupported(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (1 if x.sum() > 0 else 2)


def test_file_computes_the_same_at_any_batch_size(tmp_path: Path) -> None:
    model = small_network()
    check = export_onnx(model, (torch.randn(1, 3, 8, 8),), tmp_path / "m.onnx")
    assert check.dynamic_batch
    assert check.batches == (1, 3)
    assert check.size_bytes == (tmp_path / "m.onnx").stat().st_size
    images = torch.randn(7, 3, 8, 8)
    (ours,) = OnnxSession(tmp_path / "m.onnx")(images)
    # Sums of 27 products in another order: a few units in the last place.
    torch.testing.assert_close(ours, model.eval()(images).detach(), atol=1e-5, rtol=1e-5)


def test_model_mode_and_values_stay(tmp_path: Path) -> None:
    model = small_network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export_onnx(model, (torch.randn(2, 3, 8, 8),), tmp_path / "m.onnx")
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_says_why_the_batch_is_fixed(tmp_path: Path) -> None:
    check = export_onnx(FixedBatch(), (torch.randn(1, 4),), tmp_path / "m.onnx")
    assert not check.dynamic_batch
    assert check.batches == (1,)
    assert check.note.startswith("batch fixed at 1: ")


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    check = export_onnx(TwoInputs(), (torch.randn(2, 3), torch.randn(2, 3)), tmp_path / "m.onnx")
    assert check.max_difference == 0
    session = OnnxSession(tmp_path / "m.onnx")
    assert session.input_names == ("input_0", "input_1")
    assert len(session(torch.ones(4, 3), torch.ones(4, 3))) == 2


def test_network_that_cannot_be_expressed(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"Unsupported: torch.onnx can't express this network"):
        export_onnx(Unsupported(), (torch.randn(2, 3),), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_that_computes_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = onnx.translated

    def wrong(network: nn.Module, *arguments: object, **options: object) -> bytes:
        last = network[-1]
        bias = last.bias.detach().clone()
        last.bias.data += 0.01
        content = trace(network, *arguments, **options)
        last.bias.data = bias
        return content

    monkeypatch.setattr(onnx, "translated", wrong)
    with pytest.raises(ExportError, match=r"ONNX Runtime differs from torch by 0.01"):
        export_onnx(small_network(), (torch.randn(2, 3, 8, 8),), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_network_that_amplifies_rounding_is_accepted(tmp_path: Path) -> None:
    torch.manual_seed(0)
    # Long sums of large numbers that cancel: the order of the additions shows.
    network = nn.Sequential(nn.Linear(4096, 64), nn.Linear(64, 4))
    inputs = torch.randn(8, 4096)
    check = export_onnx(network, (inputs,), tmp_path / "m.onnx", tolerance=1e-9)
    assert check.max_difference > 1e-9 * check.scale
    assert check.rounding is not None
    assert check.max_difference <= 4 * check.rounding
    precise = export_onnx(small_network(), (torch.randn(2, 3, 8, 8),), tmp_path / "n.onnx")
    assert precise.rounding is None


def test_nan_outputs_are_refused(tmp_path: Path) -> None:
    model = small_network()
    model[-1].bias.data[0] = float("nan")
    with pytest.raises(ExportError, match="differs from torch by nan"):
        export_onnx(model, (torch.randn(2, 3, 8, 8),), tmp_path / "m.onnx")
