import re
from pathlib import Path

import pytest
import torch

import lissom
from lissom.artifacts import RECIPE, Artifacts, save
from lissom.cli.app import run
from lissom.export.onnx import onnx_content
from lissom.export.runtime import OnnxSession
from lissom.models.outside import build_from_factory
from lissom.plan.plan import Plan, Source

_RECIPE = """
model: lissom:digits_resnet
data: {name: digits, batch_size: 32}
budget: {macs: 0.5}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = lissom.build_model("lissom:digits_resnet")
    save(
        out, Artifacts(model=model, plan=Plan.starting_from(model, Source("lissom:digits_resnet")))
    )
    (out / RECIPE).write_text(_RECIPE)
    assert run(["pack", str(out)]) == 0
    return out


def test_a_run_becomes_an_int8_file_by_its_own_data(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "small.onnx"
    command = ["export", str(folder), "--to", "onnx-int8", "--out", str(path)]
    extra = ["--estimator", "mse", "--equalize", "never", "--correct-bias", "never"]
    count = ["--calibration-images", "64", "--runs", "2", "--layers"]
    count.append("--allow-slower")  # what is slower on a busy machine is anybody's guess
    assert run([*command, *extra, *count]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{path}: {path.stat().st_size:,} bytes (ONNX in float32: ")
    assert re.search(r"same answer as the float network on [\d.]+ % of \d+ held-out images", text)
    assert "  conv1: QLinearConv\n" in text
    assert "int8: 11 of 11 layers" in text
    rows = [line.split()[0] for line in text.splitlines() if line]
    assert {"fp32", "onnx-int8"} <= set(rows)
    assert len(OnnxSession(path)(torch.zeros(3, 1, 8, 8))[0]) == 3


def test_a_packed_file_becomes_onnx_and_a_torch_program(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(folder / "model.lsm")
    shape = ["--input", "1x1x8x8", "--runs", "2"]
    onnx, program = tmp_path / "m.onnx", tmp_path / "m.pt2"
    assert run(["export", source, "--to", "onnx", "--out", str(onnx), *shape]) == 0
    assert run(["export", source, "--to", "torch-export", "--out", str(program), *shape]) == 0
    assert "checked by running the file" in capsys.readouterr().out
    images = torch.rand(2, 1, 8, 8)
    expected = lissom.load(folder)(images)
    torch.testing.assert_close(OnnxSession(onnx)(images)[0], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.export.load(program).module()(images), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lissom:digits_resnet", "--to", "onnx-int8"], "needs images to calibrate with"),
        (["lissom:digits_resnet", "--to", "onnx"], "give the shape of the network's input"),
        (
            ["lissom:digits_resnet", "--to", "onnx", "--keep-float", "2", "--data", "digits"],
            "--to onnx: --data, the options of rounding would have no effect",
        ),
        (
            ["lissom:digits_resnet", "--to", "openvino", "--allow-slower"],
            "--to openvino: --allow-slower would have no effect",
        ),
        (
            ["lissom:digits_resnet", "--to", "onnx", "--model", "lissom:resnet8"],
            "--model: names the original of a folder or packed file",
        ),
        (["none.lsm", "--to", "onnx"], "none.lsm: no such file"),
        (["lissom:digits_resnet", "--to", "tflite"], "tflite"),
    ],
)
def test_what_is_missing_is_said(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", *arguments, "--out", str(tmp_path / "m.onnx")]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_weights_of_a_run_are_its_own(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", str(folder), "--to", "onnx", "--out", str(tmp_path / "m.onnx")]
    assert run([*command, "--weights", "w.safetensors"]) == 2
    assert "has weights of its own; drop the option" in capsys.readouterr().err


_OWN = """
import torch
import lissom
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)).eval()

def sets():
    images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    batches = [(part, torch.zeros(32).long()) for part in images.split(32)]
    return lissom.Data(*[batches] * 4)
"""


def test_a_run_of_functions_of_ones_own_asks_before_it_calls_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_functions.py").write_text(_OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    model = build_from_factory("own_functions:build")
    content, _ = onnx_content(model, (torch.zeros(1, 1, 8, 8),))
    artifacts = Artifacts(model=model, plan=Plan.starting_from(model), onnx=content)
    recipe = "model: own_functions:build\ndata: own_functions:sets\nbudget: {macs: 0.5}\n"
    save(tmp_path / "run", artifacts)
    (tmp_path / "run" / RECIPE).write_text(f"{recipe}input: 1x1x8x8\n")
    command = ["export", str(tmp_path / "run"), "--to", "onnx-int8", "--runs", "2"]
    command += ["--model", "own_functions:build", "--allow-slower", "--estimator", "mse"]
    command += ["--equalize", "never", "--correct-bias", "never", "--out"]
    assert run([*command, str(tmp_path / "no.onnx")]) == 2
    assert "add --allow-import if you trust this recipe" in capsys.readouterr().err
    assert run([*command, str(tmp_path / "one.onnx"), "--allow-import"]) == 0
    # What is typed needs no permission, and the shape of the input is that of the run.
    assert run([*command, str(tmp_path / "two.onnx"), "--data", "own_functions:sets"]) == 0
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()
    assert run([*command[:2], "--to", "onnx", "--allow-import", "--out", "x"]) == 2
    assert "--to onnx: --allow-import would have no effect" in capsys.readouterr().err
