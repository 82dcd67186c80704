"""Structure and int8 in one run: files, report, resume, export from the plan."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.numpy_helper import to_array

import lissom
from lissom.cli.app import run as run_command
from lissom.errors import BudgetError
from lissom.export.runtime import OnnxSession
from lissom.methods.range_tuning import RangeTuning
from lissom.pipeline.recipe_run import preview_recipe, run_recipe
from lissom.pipeline.result import Result
from lissom.recipe.read import read_recipe

RECIPE = """
model: {name: lissom:digits_resnet, weights: WEIGHTS}
data: {name: digits, calibration_images: 256}
stages:
- {method: hmc, images: 128, statistics_images: 256, fractions: [0.5], rounds: 1}
- {method: int8, epochs: 2, calibration_images: 128, rate_factor: 0.02, estimator: mse}
budget: {macs: 0.6}
allow_slower: true
recover: {epochs: 1, learning_rate: 0.05, warmup_steps: 2, recalibration_images: 256}
seed: 3
"""


def quietly(text: str, weights: Path, out: Path, **options: Any) -> Result:
    recipe = out.with_name(f"{out.name}.yaml")
    recipe.write_text(text.replace("WEIGHTS", str(weights)))
    return run_recipe(read_recipe(recipe), out, say=lambda _line: None, **options)


@pytest.fixture(scope="module")
def done(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("int8") / "out"
    return out, quietly(RECIPE, weights, out)


def test_the_run_ends_in_a_file_in_int8_that_is_measured(done: tuple[Path, Result]) -> None:
    out, _ = done
    report = json.loads((out / "report.json").read_text())
    section = report["int8_file"]
    content = (out / "model-int8.onnx").read_bytes()
    assert section["size_bytes"] == len(content)
    assert set(section["layers"].values()) <= {"QLinearConv", "QGemm"}
    assert section["kernel_agreement"]["top1"] > 0.98
    test = list(lissom.load_data("digits").data.test)
    session = OnnxSession(content)
    right = [session(images)[0].argmax(1) == classes for images, classes in test]
    assert section["metric"]["value"] == pytest.approx(float(torch.cat(right).double().mean()))
    assert section["metric"]["value"] > report["original"]["accuracy"] - 0.05
    assert {"median_ms", "ratio", "ratio_low", "ratio_high"} <= section["latency"].keys()
    assert report["method"] == "hmc+int8"
    assert report["steps"][1]["epochs"] == 2
    assert report["int8"]["kept"] in ("tuned", "as observed")
    assert report["int8"]["harm"] == min(
        report["int8"]["harm_tuned"], report["int8"]["harm_observed"]
    )
    assert len(report["evidence"]["training"][1]["epochs"]) == 2
    bits = [row["after"]["weight_bits"] for row in report["layers"] if row["after"]["macs"]]
    assert set(bits) == {8}
    assert not [one for one in report["warnings"] if "planned as levels" in one]


def test_what_is_loaded_is_what_was_rounded(done: tuple[Path, Result], tmp_path: Path) -> None:
    out, result = done
    images = torch.cat([images for images, _ in lissom.load_data("digits").data.test])
    shutil.copy(out / "model.lsm", tmp_path / "alone.lsm")
    with torch.no_grad():
        wanted = result.model(images)
        assert torch.equal(lissom.load(out)(images), wanted)
        assert torch.equal(lissom.load(tmp_path / "alone.lsm")(images), wanted)
    (found,) = OnnxSession(result.int8 or b"")(images)
    assert float((found.argmax(1) == wanted.argmax(1)).double().mean()) > 0.98


def test_an_export_takes_the_ranges_that_were_learned(
    done: tuple[Path, Result], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, result = done
    path = tmp_path / "again.onnx"
    command = ["export", str(out), "--to", "onnx-int8", "--out", str(path), "--runs", "2"]
    assert run_command(command) == 0
    assert path.read_bytes() == result.int8
    assert "tried" not in capsys.readouterr().out


@pytest.mark.slow  # as AJC's and EDP's trainings, which run each time
def test_an_interrupted_tuning_continues_to_the_same_network(
    done: tuple[Path, Result], weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, seen, whole = tmp_path / "out", [], RangeTuning.after_step

    def until(tuning: RangeTuning, step: Any) -> bool:
        seen.append(step)
        if step.progress > 0.7:
            raise KeyboardInterrupt
        return whole(tuning, step)

    monkeypatch.setattr(RangeTuning, "after_step", until)
    with pytest.raises(KeyboardInterrupt):
        quietly(RECIPE, weights, out)
    monkeypatch.setattr(RangeTuning, "after_step", whole)
    result = quietly(RECIPE, weights, out, resume=True)
    assert seen
    assert result.plan.to_json() == done[1].plan.to_json()
    assert result.int8 == done[1].int8


def test_int8_comes_last(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    text = RECIPE.replace("WEIGHTS", str(weights)).splitlines()
    text[4], text[5] = text[5], text[4]
    path.write_text("\n".join(text))
    with pytest.raises(BudgetError, match=r"int8 decides how the network .* put it last"):
        preview_recipe(read_recipe(path), say=lambda _line: None)


def test_levels_chosen_for_a_size_are_not_rounded_again(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    text = RECIPE.replace("WEIGHTS", str(weights)).splitlines()
    text[4] = "- {method: ajc}"
    text[5] = "- {method: int8, weight_bits: 8}"
    path.write_text("\n".join(text).replace("macs: 0.6", "max_drop: 1"))
    with pytest.raises(BudgetError, match=r"would round the levels that ajc has .* activations=8"):
        preview_recipe(read_recipe(path), say=lambda _line: None)


def test_levels_chosen_for_a_size_compute_in_int8(weights: Path, tmp_path: Path) -> None:
    out, text = tmp_path / "out", RECIPE.splitlines()
    text[4] = "- {method: ajc, mode: post_training, statistics_images: 64}"
    text[5] = "- {method: int8, calibration_images: 128, estimator: mse}"
    text[8] = "recover: {epochs: 0, recalibration_images: 256}"
    result = quietly("\n".join(text).replace("macs: 0.6", "size: 10x"), weights, out)
    (size,) = result.report.budget
    assert size.met
    assert 0.97 * size.limit <= (out / "model.lsm").stat().st_size <= size.limit
    report = json.loads((out / "report.json").read_text())
    layers = {row["name"] for row in report["layers"] if row["after"]["macs"]}
    assert set(report["int8"]["kept_levels"]) == layers
    assert report["int8_file"]["metric"]["value"] > report["compressed"]["accuracy"] - 0.02
    network = lissom.load(out / "model.lsm")
    found = {one.name: one for one in onnx.load_from_string(result.int8 or b"").graph.initializer}
    for name in layers:
        levels = to_array(found[f"{name}.weight_int"]).astype(float)
        steps = to_array(found[f"{name}.weight_scale"]).astype(float)
        weight = network.get_parameter(f"{name}.weight").detach().double().numpy()
        close = np.abs(levels * steps.reshape(-1, *[1] * (weight.ndim - 1)) - weight)
        assert close.max() <= 1e-3 * steps.max()


def test_alone_it_needs_to_know_what_may_be_lost(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compress", "--model", "lissom:digits_resnet", "--weights", str(weights)]
    command += ["--data", "digits", "--method", "int8", "--out", str(tmp_path / "out")]
    assert run_command([*command, "--budget", "macs=0.5"]) != 0
    assert "int8 can be held to latency and max_drop" in capsys.readouterr().err


@pytest.mark.parametrize("bits", ["8", "weights=x", "activation=8", "weights=-4"])
def test_bits_that_mean_nothing_are_explained(
    bits: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compress", "--model", "lissom:digits_resnet", "--data", "digits"]
    command += ["--budget", "macs=0.5", "--bits", bits, "--out", str(tmp_path / "out")]
    assert run_command(command) != 0
    assert "expected weights=N,activations=8 with N from 2 to 8" in capsys.readouterr().err


def test_bits_beside_a_recipe_need_its_stages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    command = ["compress", str(path), "--bits", "weights=8", "--out", str(tmp_path / "out")]
    assert run_command(command) != 0
    assert "add {method: int8} there as the last one" in capsys.readouterr().err
