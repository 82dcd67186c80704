from pathlib import Path

import pytest
import torch
from torch import nn

from lissom.artifacts import ONNX, Artifacts, save
from lissom.cli.app import run
from lissom.export.onnx import export_onnx
from lissom.models.catalog import build_model
from lissom.plan.plan import Plan, Source


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    model = build_model("lissom:resnet8")
    save(out, Artifacts(model=model, plan=Plan((), Source("lissom:resnet8"))))
    export_onnx(model, (torch.zeros(1, 3, 32, 32),), out / ONNX)
    return out


def test_compares_both_networks_and_states_the_conditions(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", str(folder), "--batch", "2", "--threads", "1", "--runs", "3"]) == 0
    text = capsys.readouterr().out
    lines = [line.split() for line in text.splitlines()]
    assert [line[0] for line in lines if line and line[0] in ("original", "compressed")] == [
        "original",
        "compressed",
    ]
    assert "batch 2, threads 1, runs 3" in text
    assert "onnxruntime" in text


def test_torch_runs_the_networks_themselves(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", str(folder), "--runtime", "torch", "--runs", "2"]) == 0
    text = capsys.readouterr().out
    assert "compressed" in text
    assert f"torch {torch.__version__}, batch 1" in text


def test_a_runtime_that_there_is_not_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", str(folder), "--runtime", "tvm"]) == 2
    message = "--runtime='tvm': expected onnxruntime, openvino, torch, torch-compiled"
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_network_of_your_own_must_be_given(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, Artifacts(plan=Plan(())))
    (tmp_path / ONNX).write_bytes((folder / ONNX).read_bytes())
    assert run(["bench", str(tmp_path)]) == 2
    assert "does not say which network it changes" in capsys.readouterr().err
    assert run(["bench", str(tmp_path), "--model", "lissom:resnet8", "--runs", "2"]) == 0


def test_a_folder_without_a_network_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", str(tmp_path)]) == 2
    assert "model.onnx" in capsys.readouterr().err


def test_a_fixed_batch_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if x.shape[0] <= 2 else x + 1

    export_onnx(Fixed(), (torch.randn(1, 4),), tmp_path / ONNX)
    assert run(["bench", str(tmp_path), "--batch", "4"]) == 2
    assert "has a fixed batch of 1, asked for 4" in capsys.readouterr().err
