"""AJC from end to end: bytes of the real file, report, files, resume, together with EDP."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import lissom
from lissom.errors import BudgetError, RecipeError
from lissom.pipeline.recipe_run import preview_recipe, run_recipe
from lissom.quantization.steering import SizeSteering
from lissom.recipe.read import read_recipe

RECIPE = """
model: {name: lissom:digits_resnet, weights: WEIGHTS}
data: {name: digits, calibration_images: 256}
stages: [{method: ajc, statistics_images: 128, weighings: 3, steer_every: 5, rate_factor: 1}]
budget: {size: 20x}
recover: {epochs: 2, learning_rate: 0.02, warmup_steps: 2, recalibration_images: 256}
seed: 3
"""


def quietly(text: str, weights: Path, out: Path, **options: Any):
    recipe = out.with_name(f"{out.name}.yaml")
    recipe.write_text(text.replace("WEIGHTS", str(weights)))
    return run_recipe(read_recipe(recipe), out, say=lambda _line: None, **options)


@pytest.fixture(scope="module")
def run(weights: Path, tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("ajc") / "out"
    return out, quietly(RECIPE, weights, out)


@pytest.fixture(scope="module")
def report(run) -> dict[str, Any]:
    return json.loads((run[0] / "report.json").read_text())


def test_the_real_file_is_as_small_as_asked(run, report) -> None:
    limit = 4 * report["original"]["params"] // 20
    size = (run[0] / "model.lsm").stat().st_size
    assert 0.97 * limit <= size <= limit
    assert report["compressed"]["size_bytes"] == size
    assert report["budget"]["size"]["met"]
    assert report["budget"]["size"]["limit"] == limit
    storage = report["storage"]
    assert storage["ratios"]["r4_file"] == pytest.approx(4 * report["original"]["params"] / size)
    assert report["compressed"]["accuracy"] > 0.9


def test_what_is_loaded_is_what_was_measured(run, tmp_path) -> None:
    out, result = run
    images = torch.randn(3, 1, 8, 8)
    shutil.copy(out / "model.lsm", tmp_path / "alone.lsm")
    with torch.no_grad():
        expected = result.model(images)
        assert torch.equal(lissom.load(out)(images), expected)
        assert torch.equal(lissom.load(tmp_path / "alone.lsm")(images), expected)


def test_the_plan_folds_and_quantizes(run, report) -> None:
    plan = json.loads((run[0] / "plan.json").read_text())
    kinds = {decision["kind"] for decision in plan["decisions"]}
    assert kinds == {"fold_batch_norm", "quantize"}
    quantized = {d["layer"]: d for d in plan["decisions"] if d["kind"] == "quantize"}
    assert quantized.keys() == report["ajc"]["layers"].keys()
    assert all(1 <= d["bits"] <= 8 for d in quantized.values())
    course = report["ajc"]["trajectory"]
    assert course[-1]["bytes"] <= course[-1]["target"] * 1.01


def test_an_interrupted_run_ends_the_same(run, weights, tmp_path, monkeypatch) -> None:
    class KilledError(Exception):
        pass

    step_of = SizeSteering.after_step

    def dies(self, step):
        if step.progress > 0.7:  # in the second epoch
            raise KilledError
        return step_of(self, step)

    out = tmp_path / "out"
    monkeypatch.setattr(SizeSteering, "after_step", dies)
    with pytest.raises(KilledError):
        quietly(RECIPE, weights, out)
    monkeypatch.undo()
    quietly(RECIPE, weights, out, resume=True)
    for name in ("model.lsm", "plan.json"):
        assert (out / name).read_bytes() == (run[0] / name).read_bytes()


def test_without_training_and_without_labels(weights, tmp_path) -> None:
    stage = "stages: [{method: ajc, mode: post_training, statistics_images: 128}]"
    lines = RECIPE.replace("20x", "10x").replace("epochs: 2", "epochs: 0").splitlines()
    text = "\n".join(stage if line.startswith("stages") else line for line in lines)
    result = quietly(text, weights, tmp_path / "out")
    found = preview_recipe(read_recipe(tmp_path / "out.yaml"), say=lambda _line: None)
    assert found.proposal is not None
    size = (tmp_path / "out" / "model.lsm").stat().st_size
    assert found.proposal.predicted.bits / 8 == pytest.approx(size, rel=0.01)
    assert 200 < found.feasibility.smallest.bits / 8 < size
    assert result.report.budget[0].met
    assert result.report.compressed.accuracy is not None
    assert result.report.compressed.accuracy > 0.9


def test_after_edp_the_bytes_count_from_the_original(weights, tmp_path) -> None:
    stages = (
        "[{method: edp, statistics_images: 128, steer_every: 5, rate_factor: 1}, "
        "{method: ajc, statistics_images: 128, weighings: 3}]"
    )
    lines = RECIPE.splitlines()
    text = "\n".join(f"stages: {stages}" if line.startswith("stages") else line for line in lines)
    text = text.replace("{size: 20x}", "{macs: 0.6, size: 25x}")
    result = quietly(text, weights, tmp_path / "out")
    rows = {row.quantity: row for row in result.report.budget}
    assert rows["macs"].met
    assert rows["size"].met
    assert rows["size"].limit == 4 * result.report.original.params // 25
    with torch.no_grad():
        images = torch.randn(2, 1, 8, 8)
        loaded = lissom.load(tmp_path / "out" / "model.lsm")
        assert torch.equal(loaded(images), result.model(images))


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("20x", "1000x", BudgetError, "size=1000x asks for"),
        ("{size: 20x}", "{macs: 0.5}", BudgetError, "macs"),
        ("method: ajc,", "method: ajc, price: coder2,", RecipeError, "coder, binary_entropy"),
        ("method: ajc,", "method: ajc, ordre: joint,", RecipeError, "did you mean 'order'"),
        (
            "method: ajc,",
            "method: ajc, mode: post_training,",
            RecipeError,
            "stages.0: rate_factor=1.0: has no effect with mode=post_training",
        ),
        (
            "statistics_images: 128, weighings: 3, steer_every: 5, rate_factor: 1",
            "mode: post_training",
            RecipeError,
            "recover.epochs=2: has no effect, ajc as set up here neither trains nor is recovered",
        ),
    ],
)
def test_what_can_not_be_is_said_before_the_work(weights, tmp_path, old, new, error, message):
    with pytest.raises(error, match=message):
        quietly(RECIPE.replace(old, new), weights, tmp_path / "out")
