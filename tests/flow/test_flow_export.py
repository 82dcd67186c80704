"""From a finished run to files for other runtimes."""

import re
from pathlib import Path

import pytest
import torch
from flow_runs import Finished

import lissom
from lissom.cli.app import run
from lissom.export.runtime import OnnxSession


def test_a_compressed_network_runs_in_int8_and_answers_the_same(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "small.onnx"
    command = ["export", str(finished.out), "--to", "onnx-int8", "--out", str(path)]
    command += ["--calibration-images", "128", "--runs", "2", "--allow-slower"]
    assert run(command) == 0
    text = capsys.readouterr().out
    counts = re.search(r"int8: (\d+) of (\d+) layers", text)
    assert counts is not None
    assert counts[1] == counts[2]
    assert "float\n" not in text
    held_out = re.search(r"network on ([\d.]+) % of", text)
    assert held_out is not None
    assert float(held_out[1]) >= 98
    images = torch.cat([images for images, _ in lissom.load_data("digits").data.test])
    with torch.no_grad():
        wanted = lissom.load(finished.out)(images).argmax(dim=1)
    (found,) = OnnxSession(path)(images)
    assert float((found.argmax(dim=1) == wanted).double().mean()) >= 0.98
