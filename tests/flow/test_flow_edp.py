"""EDP from end to end: budget, report, files, settings."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from flow_runs import assert_columns_add_up
from torch import nn

import lissom
from lissom.data.load import load_data
from lissom.errors import BudgetError
from lissom.measure.latency import Conditions
from lissom.methods.edp import Edp, EdpSettings
from lissom.models.catalog import build_model
from lissom.pipeline.recipe_run import run_recipe
from lissom.recipe.read import read_recipe

RECIPE = """
model: {name: lissom:digits_resnet, weights: WEIGHTS}
data: {name: digits, calibration_images: 256}
stages:
- {method: edp, statistics_images: 256, steer_every: 5, ramp_end: 0.5, cut_at: 0.6, rate_factor: 1,
   split: channel}
budget: {macs: 0.5}
allow_slower: true
recover: {epochs: 3, learning_rate: 0.05, warmup_steps: 2, recalibration_images: 256}
seed: 3
"""


@pytest.fixture(scope="module")
def run(weights: Path, tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("edp") / "out"
    recipe_file = out.with_name("edp.yaml")
    recipe_file.write_text(RECIPE.replace("WEIGHTS", str(weights)))
    return out, run_recipe(read_recipe(recipe_file), out, say=lambda _line: None)


@pytest.fixture(scope="module")
def report(run) -> dict[str, Any]:
    return json.loads((run[0] / "report.json").read_text())


def test_the_budget_is_met_as_measured(report) -> None:
    assert report["compressed"]["macs"] <= 0.5 * report["original"]["macs"]
    assert report["compressed"]["macs"] >= 0.97 * 0.5 * report["original"]["macs"]
    assert_columns_add_up(report)


def test_pruning_and_merging_cost_no_accuracy(report) -> None:
    found = report["edp"]
    before, after = found["accuracy_before_merge"], found["accuracy_after_merge"]
    assert abs(before - after) <= 0.0005
    assert before > 0.3  # three epochs; guessing gives 0.1


def test_the_course_ends_within_the_budget(report) -> None:
    course = report["edp"]["trajectory"]
    assert len(course) > 5
    assert course[0]["macs"] > 0.9
    assert course[-1]["macs"] <= 0.5
    assert course[-1]["progress"] < 0.65


def test_the_plan_is_made_of_what_edp_decides(run) -> None:
    plan = json.loads((run[0] / "plan.json").read_text())
    kinds = {decision["kind"] for decision in plan["decisions"]}
    assert {"channel_svd"} <= kinds <= {"keep_channels", "channel_svd", "merge"}


def test_it_is_loaded_bit_for_bit_and_exported(run) -> None:
    out, result = run
    images = torch.randn(3, 1, 8, 8)
    loaded = lissom.load(out)
    with torch.no_grad():
        assert torch.equal(loaded(images), result.model(images))
    assert list(out.glob("*.onnx"))


def quickly(model: nn.Module, budget: str = "macs=0.6", **changes: Any) -> lissom.Result:
    """Compress with an epoch of training: 12 steps."""
    recover = lissom.TrainSettings(
        epochs=1, learning_rate=0.02, recalibration_images=64, device="cpu", warmup_steps=1
    )
    measured = "mode" not in changes and changes.get("learn") != ("rows",)
    edp = EdpSettings(**changes, **({"statistics_images": 64} if measured else {}))
    return lissom.compress(
        model,
        (torch.zeros(1, 1, 8, 8),),
        data=load_data("digits").data,
        method=Edp(edp),
        budget=budget,
        settings=lissom.Settings(
            recover=recover, latency=Conditions(runs=3, warmup=1), allow_slower=True
        ),
    )


@pytest.fixture(scope="module")
def trained(weights: Path) -> nn.Module:
    model = build_model("lissom:digits_resnet")
    lissom.load_weights(model, weights)
    return model


@pytest.mark.parametrize(
    "changes",
    [
        {"merge": "never"},
        {"merge": "time"},
        {"learn": ("columns",)},
        {"learn": ("rows",)},
    ],
    ids=str,
)
def test_every_choice_meets_the_budget(trained, changes) -> None:
    report = quickly(trained, **changes).report
    assert report.compressed.macs <= 0.6 * report.original.macs


def test_the_faithful_mode_meets_a_budget_if_its_multipliers_are_large(trained) -> None:
    report = quickly(trained, mode="faithful", lam_rank=20.0, lam_channel=10.0).report
    assert report.compressed.macs <= 0.6 * report.original.macs


def test_from_scratch_the_labels_teach() -> None:
    torch.manual_seed(0)
    recover = lissom.TrainSettings(
        epochs=4, learning_rate=0.1, device="cpu", warmup_steps=10, ema=0.9, precision="32"
    )
    settings = EdpSettings(start="scratch", ramp_end=0.5, cut_at=0.6, steer_every=5)
    data = load_data("digits").data
    result = lissom.compress(
        build_model("lissom:digits_resnet"),
        (torch.zeros(1, 1, 8, 8),),
        data=data,
        method=Edp(settings),
        budget="macs=0.6",
        settings=lissom.Settings(
            recover=recover, latency=Conditions(runs=3, warmup=1), allow_slower=True
        ),
    )
    assert result.report.compressed.accuracy > 0.8
    assert result.report.settings["recover"]["distillation"] == 0


def test_what_the_faithful_mode_came_to_is_delivered_above_the_budget(trained) -> None:
    report = quickly(trained, mode="faithful", lam_rank=0.0, lam_channel=0.0).report
    (row,) = report.budget
    assert not row.met
    assert any("above the budget" in w and "raise the multipliers" in w for w in report.warnings)


def test_a_budget_out_of_reach_is_refused_before_any_training(trained, monkeypatch) -> None:
    def never(*_given: object, **_options: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr("lissom.pipeline.training.train", never)
    with pytest.raises(BudgetError):
        quickly(trained, budget="macs=0.001")


def test_a_spatial_split_at_the_start_is_cut_fitted_and_loaded(weights, tmp_path) -> None:
    """Kernels as products of columns and rows, chosen before any training."""
    old = "ramp_end: 0.5, cut_at: 0.6, rate_factor: 1,\n   split: channel"
    recipe = RECIPE.replace(old, "rate_factor: 1")
    assert recipe != RECIPE
    file = tmp_path / "spatial.yaml"
    file.write_text(recipe.replace("WEIGHTS", str(weights)))
    result = run_recipe(read_recipe(file), tmp_path / "out", say=lambda _line: None)
    kinds = {decision.kind for decision in result.plan.decisions}
    assert "spatial_svd" in kinds
    after = result.report.compressed
    assert after.macs <= 0.5 * result.report.original.macs
    assert after.accuracy > 0.9
    section = result.report.methods["edp"]
    assert section["accuracy_after_merge"] == pytest.approx(section["accuracy_before_merge"])
    images = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(lissom.load(tmp_path / "out")(images), result.model(images))
