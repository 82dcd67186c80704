from pathlib import Path

import pytest
import torch
from torch import nn

from lissom.errors import ExportError
from lissom.export.onnx import export_onnx
from lissom.export.runtime import OnnxSession


@pytest.fixture(scope="module")
def linear_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "linear.onnx"
    export_onnx(nn.Linear(3, 2), (torch.randn(2, 3),), path)
    return path


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"not a network")
    with pytest.raises(ExportError, match=r"bad.onnx: ONNX Runtime .* can't load it"):
        OnnxSession(path)


def test_inputs_of_another_shape_are_named(linear_file: Path) -> None:
    with pytest.raises(ExportError, match=r"refuses inputs of shape \(2, 5\)"):
        OnnxSession(linear_file)(torch.randn(2, 5))


def test_too_many_inputs(linear_file: Path) -> None:
    with pytest.raises(ExportError, match="takes 1 inputs"):
        OnnxSession(linear_file)(torch.randn(2, 3), torch.randn(2, 3))
